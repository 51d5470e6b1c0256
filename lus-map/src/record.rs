//! The record of a logical unit, object `lu.<id>`: who holds it, in which epoch of its own.
//!
//! ```text
//!            claim                    begin_move
//!   New ─────────────► Serving(A,e) ─────────────► Moving(A>B,e)
//!   Released(e) ─────► (e+1)        ◄───────────── │
//!        ▲  claim         │  │        cancel_move  │
//!        └────────────────┘  │                     │
//!        └───────────────────┼─────────────────────┘
//!             release        │ lose                │ lose
//!                            ▼                     ▼
//!                         Lost(A,e) ◄──────────────┘
//!
//!   Serving, Moving, Lost of A ── take_over, A's recorded client is fenced ──► Serving(B,e+1)
//! ```
//!
//! Every step is a function from a record to the next one; it is written by a compare of the version that it was made
//! from. The epoch rises with each new holder: a write of the old holder fails on it, whatever client it comes from.
//! The holder's client is on record here before that client asks for the image's lock (and in the map before it opens
//! anything read-write).

mod handover;
mod reservations;

use std::fmt;

pub use handover::{Handover, MOVE_PATIENCE, handover};
use prost::Message;
pub use reservations::{REGISTRATIONS_MAX, RESERVATIONS_WRITER, Registration, ReservationKind, Reservations};
use serde::Serialize;

use crate::id::{ClientAddr, DaemonId, Epoch, LuId};
use crate::model::{BASE_WRITER, Fenced, WRITER};
use crate::wire::{Corrupt, ENTITY_BYTES_MAX, message, name, pb, uuid};

/// What the names of the objects begin with.
pub const RECORD_PREFIX: &str = "lu.";
/// The xattr that holds the unit's epoch in decimal digits.
pub const LU_EPOCH_XATTR: &str = "lu_epoch";
/// The xattr that holds the version, the count of writes, in decimal digits.
pub const VERSION_XATTR: &str = "version";

/// The name of the object of a unit's record.
pub fn record_object(lu: &LuId) -> String {
    format!("{RECORD_PREFIX}{lu}")
}

/// A start of a daemon with the RADOS client through which it holds a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The daemon.
    pub daemon: DaemonId,
    /// Its start.
    pub up_from: Epoch,
    /// The client that opens the image.
    pub addr: ClientAddr,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lus.{} up_from {} ({})", self.daemon, self.up_from, self.addr)
    }
}

/// Where a unit stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum LuState {
    /// Nobody ever held it.
    New,
    /// One daemon may hold the lock and serve.
    Serving {
        /// Which.
        holder: Holder,
    },
    /// It still serves, and is to hand over.
    Moving {
        /// The one that serves.
        from: Holder,
        /// The one that is to.
        to: DaemonId,
    },
    /// The last holder ended with nothing in flight.
    Released,
    /// The last holder lost the lock or its client; what it left is unknown.
    Lost {
        /// Which.
        holder: Holder,
    },
}

impl LuState {
    /// The recorded holder: the one whose client must be fenced before another may hold the unit.
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::New | Self::Released => None,
            Self::Serving { holder } | Self::Lost { holder } | Self::Moving { from: holder, .. } => {
                Some(holder)
            }
        }
    }
}

impl fmt::Display for LuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::Serving { holder } => write!(f, "serving by {holder}"),
            Self::Moving { from, to } => write!(f, "moving from {from} to lus.{to}"),
            Self::Released => f.write_str("released"),
            Self::Lost { holder } => write!(f, "lost by {holder}"),
        }
    }
}

/// Why a step is refused. The record stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The state does not allow the step.
    #[error("logical unit {lu} cannot {step}: it is {state}")]
    WrongState {
        /// The unit.
        lu: LuId,
        /// The step.
        step: &'static str,
        /// Its state.
        state: Box<LuState>,
    },
    /// Another one holds the unit.
    #[error("logical unit {lu} cannot {step} for {by}: it is {state}")]
    NotHolder {
        /// The unit.
        lu: LuId,
        /// The step.
        step: &'static str,
        /// Who asked.
        by: Box<Holder>,
        /// Its state.
        state: Box<LuState>,
    },
    /// The client that was fenced is not the recorded one.
    #[error("logical unit {lu} cannot be taken over: {fenced} was fenced, the recorded client is {recorded}")]
    OtherClientFenced {
        /// The unit.
        lu: LuId,
        /// The client that was fenced.
        fenced: ClientAddr,
        /// The client on record.
        recorded: ClientAddr,
    },
    /// The new holder would use the client that was fenced.
    #[error("logical unit {lu} cannot be held through {addr}, which is fenced")]
    FencedClient {
        /// The unit.
        lu: LuId,
        /// The client.
        addr: ClientAddr,
    },
    /// Nobody could read the record any more.
    #[error("reservations of logical unit {lu} cannot be kept: {flaw}")]
    Flawed {
        /// The unit.
        lu: LuId,
        /// Why.
        flaw: &'static str,
    },
    /// A newer program wrote the record.
    #[error("record of logical unit {lu} asks for writer level {min_writer}, this version has {WRITER}")]
    TooOld {
        /// The unit.
        lu: LuId,
        /// The level that it asks for.
        min_writer: u32,
    },
}

/// The record of a logical unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LuRecord {
    /// Who has less than this writer level must not change the record.
    #[serde(skip)]
    pub min_writer: u32,
    /// The unit.
    pub lu: LuId,
    /// Rises with each new holder; 0 before the first.
    pub lu_epoch: Epoch,
    /// Rises with each write; 1 for the first.
    pub version: u64,
    /// Where it stands.
    #[serde(flatten)]
    pub state: LuState,
    /// What hosts have registered and reserved. It stays while the holder changes.
    #[serde(skip_serializing_if = "Reservations::is_untouched")]
    pub reservations: Reservations,
}

impl LuRecord {
    /// The first record of a unit.
    pub fn new(lu: LuId) -> Self {
        Self {
            min_writer: BASE_WRITER,
            lu,
            lu_epoch: Epoch(0),
            version: 1,
            state: LuState::New,
            reservations: Reservations::default(),
        }
    }

    /// The next record of the same epoch.
    fn step(&self, state: LuState) -> Result<Self, RecordError> {
        if self.min_writer > WRITER {
            return Err(RecordError::TooOld { lu: self.lu, min_writer: self.min_writer });
        }
        assert!(self.version < u64::MAX, "the version counter cannot be exhausted");
        Ok(Self { version: self.version + 1, state, ..self.clone() })
    }

    /// The next record, of the next epoch.
    fn hold(&self, by: &Holder) -> Result<Self, RecordError> {
        let mut next = self.step(LuState::Serving { holder: by.clone() })?;
        next.lu_epoch = self.lu_epoch.next();
        Ok(next)
    }

    fn wrong_state(&self, step: &'static str) -> RecordError {
        RecordError::WrongState { lu: self.lu, step, state: Box::new(self.state.clone()) }
    }

    fn only_by(&self, by: &Holder, holder: &Holder, step: &'static str) -> Result<(), RecordError> {
        if by == holder {
            return Ok(());
        }
        Err(RecordError::NotHolder {
            lu: self.lu,
            step,
            by: Box::new(by.clone()),
            state: Box::new(self.state.clone()),
        })
    }

    /// Takes a unit that nobody holds: it is new, or was released. No fence is needed. (Where the lock is still held after
    /// a release, the released holder is fenced all the same: that is the caller's to see.)
    ///
    /// # Errors
    /// [`RecordError::WrongState`] if somebody holds it.
    pub fn claim(&self, by: &Holder) -> Result<Self, RecordError> {
        match self.state {
            LuState::New | LuState::Released => self.hold(by),
            _ => Err(self.wrong_state("be claimed")),
        }
    }

    /// Takes a unit from its recorded holder, whose client is fenced: the OSD map that says so was seen by the very
    /// client that will do the I/O.
    ///
    /// # Errors
    /// [`RecordError::WrongState`] if nobody holds it, [`RecordError::OtherClientFenced`], and
    /// [`RecordError::FencedClient`] if `by` is to use the client that was fenced.
    pub fn take_over(&self, by: &Holder, fenced: &Fenced) -> Result<Self, RecordError> {
        let holder = self.state.holder().ok_or_else(|| self.wrong_state("be taken over"))?;
        if holder.addr != fenced.addr {
            return Err(RecordError::OtherClientFenced {
                lu: self.lu,
                fenced: fenced.addr.clone(),
                recorded: holder.addr.clone(),
            });
        }
        if by.addr == fenced.addr {
            return Err(RecordError::FencedClient { lu: self.lu, addr: by.addr.clone() });
        }
        self.hold(by)
    }

    /// Announces that the unit is to go to `to`; the holder serves on.
    ///
    /// # Errors
    /// [`RecordError::WrongState`] unless it is served.
    pub fn begin_move(&self, to: &DaemonId) -> Result<Self, RecordError> {
        match &self.state {
            LuState::Serving { holder } => {
                self.step(LuState::Moving { from: holder.clone(), to: to.clone() })
            }
            _ => Err(self.wrong_state("begin to move")),
        }
    }

    /// Takes the announcement back.
    ///
    /// # Errors
    /// [`RecordError::WrongState`] unless it is moving: after [`release`](Self::release) it is too late.
    pub fn cancel_move(&self) -> Result<Self, RecordError> {
        match &self.state {
            LuState::Moving { from, .. } => self.step(LuState::Serving { holder: from.clone() }),
            _ => Err(self.wrong_state("stay")),
        }
    }

    /// The holder ends: its gate is shut, and nothing is in flight.
    ///
    /// # Errors
    /// [`RecordError::WrongState`] unless it is served, [`RecordError::NotHolder`] for any but the holder.
    pub fn release(&self, by: &Holder) -> Result<Self, RecordError> {
        match &self.state {
            LuState::Serving { holder } | LuState::Moving { from: holder, .. } => {
                self.only_by(by, holder, "be released")?;
                self.step(LuState::Released)
            }
            _ => Err(self.wrong_state("be released")),
        }
    }

    /// The holder found that it lost the lock or its client: the next one has to fence it.
    ///
    /// # Errors
    /// [`RecordError::WrongState`] unless it is served, [`RecordError::NotHolder`] for any but the holder.
    pub fn lose(&self, by: &Holder) -> Result<Self, RecordError> {
        match &self.state {
            LuState::Serving { holder } | LuState::Moving { from: holder, .. } => {
                self.only_by(by, holder, "be lost")?;
                self.step(LuState::Lost { holder: holder.clone() })
            }
            _ => Err(self.wrong_state("be lost")),
        }
    }

    /// The holder writes what hosts have registered and reserved, before it acts on it.
    ///
    /// # Errors
    /// [`RecordError::WrongState`] unless it is served, [`RecordError::NotHolder`] for any but the holder, [`RecordError::Flawed`].
    pub fn reserve(&self, by: &Holder, reservations: Reservations) -> Result<Self, RecordError> {
        match &self.state {
            LuState::Serving { holder } | LuState::Moving { from: holder, .. } => {
                self.only_by(by, holder, "be reserved")?;
                self.with_reservations(reservations)
            }
            _ => Err(self.wrong_state("be reserved")),
        }
    }

    /// An administrator takes all registrations away, whoever holds the unit: the holder sees it when it looks at the record.
    ///
    /// # Errors
    /// [`RecordError::TooOld`].
    pub fn clear_reservations(&self) -> Result<Self, RecordError> {
        let generation = self.reservations.generation.wrapping_add(1);
        self.with_reservations(Reservations { generation, ..Reservations::default() })
    }

    fn with_reservations(&self, reservations: Reservations) -> Result<Self, RecordError> {
        if let Some(flaw) = reservations.flaw() {
            return Err(RecordError::Flawed { lu: self.lu, flaw });
        }
        let mut next = self.step(self.state.clone())?;
        next.min_writer =
            if reservations.registrations.is_empty() { BASE_WRITER } else { RESERVATIONS_WRITER };
        next.reservations = reservations;
        Ok(next)
    }

    /// The object's data.
    pub fn encode(&self) -> Vec<u8> {
        let state = match &self.state {
            LuState::New => pb::lu_record::State::New(pb::lu_record::New {}),
            LuState::Serving { holder } => {
                pb::lu_record::State::Serving(pb::lu_record::Serving { holder: Some(encode_holder(holder)) })
            }
            LuState::Moving { from, to } => pb::lu_record::State::Moving(pb::lu_record::Moving {
                from: Some(encode_holder(from)),
                to: to.to_string(),
            }),
            LuState::Released => pb::lu_record::State::Released(pb::lu_record::Released {}),
            LuState::Lost { holder } => {
                pb::lu_record::State::Lost(pb::lu_record::Lost { holder: Some(encode_holder(holder)) })
            }
        };
        pb::LuRecord {
            min_writer: self.min_writer,
            lu: self.lu.0.as_bytes().to_vec(),
            lu_epoch: self.lu_epoch.0,
            version: self.version,
            state: Some(state),
            reservations: self.reservations.encode(),
        }
        .encode_to_vec()
    }

    /// The record of `lu` out of the object's data.
    ///
    /// # Errors
    /// [`Corrupt`], naming the object, for what cannot be decoded or is another unit's.
    pub fn decode(lu: &LuId, raw: &[u8]) -> Result<Self, Corrupt> {
        let undecodable = |why| Corrupt::Undecodable { key: record_object(lu), why };
        if raw.len() > ENTITY_BYTES_MAX {
            return Err(undecodable(format!("{} bytes are more than {ENTITY_BYTES_MAX}", raw.len())));
        }
        let record = Self::from_bytes(raw).map_err(undecodable)?;
        if record.lu != *lu {
            return Err(Corrupt::WrongKey { key: record_object(lu), holds: record_object(&record.lu) });
        }
        Ok(record)
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let record: pb::LuRecord = message(raw)?;
        let state = match record.state.ok_or("it has no state that this version knows")? {
            pb::lu_record::State::New(_) => LuState::New,
            pb::lu_record::State::Serving(serving) => LuState::Serving { holder: holder(serving.holder)? },
            pb::lu_record::State::Moving(moving) => {
                LuState::Moving { from: holder(moving.from)?, to: name(&moving.to)? }
            }
            pb::lu_record::State::Released(_) => LuState::Released,
            pb::lu_record::State::Lost(lost) => LuState::Lost { holder: holder(lost.holder)? },
        };
        if record.version == 0 {
            return Err("version 0".to_owned());
        }
        Ok(Self {
            min_writer: record.min_writer,
            lu: LuId(uuid(&record.lu)?),
            lu_epoch: Epoch(record.lu_epoch),
            version: record.version,
            state,
            reservations: Reservations::decode(record.reservations)?,
        })
    }
}

fn encode_holder(holder: &Holder) -> pb::lu_record::Holder {
    pb::lu_record::Holder {
        daemon: holder.daemon.to_string(),
        up_from: holder.up_from.0,
        addr: holder.addr.to_string(),
    }
}

fn holder(holder: Option<pb::lu_record::Holder>) -> Result<Holder, String> {
    let holder = holder.ok_or("the state has no holder")?;
    Ok(Holder { daemon: name(&holder.daemon)?, up_from: Epoch(holder.up_from), addr: name(&holder.addr)? })
}
