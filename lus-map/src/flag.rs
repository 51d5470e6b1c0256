//! Flags of the map, in the manner of `ceph osd set`: what an administrator keeps the leader from doing.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::id::BadName;
use crate::map::LusMap;

/// A flag that `lus set` and `lus unset` know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flag {
    /// Nothing keeps a daemon from units but an administrator.
    NoOut,
    /// Units stay where they are unless their daemon fails or an administrator moves them.
    NoMove,
    /// No daemon is declared down, and the units of one that is not up stay with it.
    NoFailover,
}

impl Flag {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NoOut, Self::NoMove, Self::NoFailover];

    /// Its name, as commands and the map have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoOut => "noout",
            Self::NoMove => "nomove",
            Self::NoFailover => "nofailover",
        }
    }

    /// What it does, in one line for the help of a command.
    pub fn help(self) -> &'static str {
        match self {
            Self::NoOut => {
                "no daemon is kept from logical units but by an administrator: one that is down stays in, and one that \
                 flaps is not held back; the logical units of a daemon that is down still fail over"
            }
            Self::NoMove => {
                "logical units are not moved by themselves to where they belong: no failback, no balancing; failover and \
                 the commands of an administrator go on"
            }
            Self::NoFailover => {
                "no daemon is declared down, and the logical units of one that is not up wait for its next start"
            }
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Flag {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let known = Self::ALL.into_iter().find(|flag| flag.as_str() == text);
        known.ok_or_else(|| BadName::new("flag", text, "noout, nomove and nofailover are known"))
    }
}

impl Serialize for Flag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl LusMap {
    /// Whether a flag is set.
    pub fn is_set(&self, flag: Flag) -> bool {
        self.meta.flags.contains(flag.as_str())
    }
}
