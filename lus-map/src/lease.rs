//! The lease of the leader: how it shows that it goes on, without an epoch for each sign.
//!
//! It stands in an xattr of the map's object, `TERM COUNT`. Taking the leadership sets it to `TERM+1 0` in the very
//! operation that makes the map's epoch, compared with the value that the candidate saw stand still. Renewing it is one
//! write of COUNT+1, compared with COUNT. So a renewal and a taking that race are decided by RADOS.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::id::BadName;

/// The xattr of the map's object that holds the lease.
pub const LEASE_XATTR: &str = "leader";
/// How long a lease stands still before another daemon may take the leadership, by that daemon's own clock.
pub const LEASE: Duration = Duration::from_secs(5);
/// How often the leader renews, and how often every daemon looks at lease and watchers.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long RADOS keeps the watch of a silent client.
pub const WATCH_TIMEOUT: Duration = Duration::from_secs(5);
/// What a look may take: an answer that is older says nothing of now.
pub const LOOK_TOOK_MAX: Duration = Duration::from_secs(1);
/// What may lie between two looks: whoever finds more stood still, and knows nothing of the time between.
pub const LOOK_GAP_MAX: Duration = Duration::from_millis(2500);

/// A sign of life of the leader of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The term.
    pub term: u64,
    /// How often it was renewed.
    pub count: u64,
}

impl Lease {
    /// The first lease of a term.
    pub fn first(term: u64) -> Self {
        Self { term, count: 0 }
    }

    /// The lease that a renewal makes.
    ///
    /// # Panics
    /// After 2^64 renewals.
    pub fn next(self) -> Self {
        assert!(self.count < u64::MAX, "the lease counter cannot be exhausted");
        Self { count: self.count + 1, ..self }
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.term, self.count)
    }
}

impl FromStr for Lease {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let parsed = text
            .split_once(' ')
            .and_then(|(term, count)| Some(Self { term: term.parse().ok()?, count: count.parse().ok()? }));
        // One text per lease: it is compared as text.
        let canonical = parsed.filter(|lease| lease.to_string() == text);
        canonical.ok_or_else(|| BadName::new("lease", text, "the form is TERM COUNT"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_as_text() {
        let lease = Lease::first(7).next();
        assert_eq!(lease.to_string(), "7 1");
        assert_eq!("7 1".parse(), Ok(lease));
        for bad in
            ["", "7", "7 ", " 7 1", "7  1", "07 1", "+7 1", "7 1 ", "7 1 2", "7 x", "18446744073709551616 0"]
        {
            assert!(bad.parse::<Lease>().is_err(), "{bad}");
        }
    }
}
