//! The iSCSI target protocol (RFC 7143, RFC 7144) without I/O: bytes in, events out; answers in, bytes out.
//!
//! ```text
//! socket --bytes--> framer --header, data--> conn --Event--> the daemon
//!                                             |  login | session { window, tasks }
//! socket <--slices-- output <---PDUs--------- conn <--accept, respond, ...-- the daemon
//! ```
//!
//! One [`Connection`] per TCP connection; it is driven like this, by whoever has the socket and the clock:
//!
//! ```text
//! loop {
//!     let target = conn.read_target();              // where the next bytes go
//!     n = socket.read(target.buf, at most target.limit);
//!     conn.received(n);
//!     while let Some(event) = conn.poll(now) { ... } // None: more input is needed, or an answer is
//!     n = conn.fill_io_slices(&mut slices);
//!     conn.sent(socket.write_vectored(&slices[..n]));
//!     conn.next_timeout(), conn.handle_timeout(now)
//! }
//! ```
//!
//! A session may have several connections ([`Connection::login_join`]); they share its command window, so all of them live on one thread.
//! One whose [`Connection::wakes_others`] says so makes the others be polled.
//!
//! Invariants:
//! - No clock, no random, no I/O, no lock: the same calls give the same bytes.
//! - What a CDB, a LUN or sense data means is not known here.
//! - Each task is ended exactly once, by `respond` or `abandon`; ending it twice panics.
//! - Everything a peer can make grow has a bound in [`Config`] or in a constant.
//! - Data is copied only where it came with other bytes in one read; data sent is never copied but for small pieces.

#![forbid(unsafe_code)]

pub mod bhs;
pub mod chap;
mod config;
mod conn;
pub mod digest;
pub mod error;
mod event;
mod framer;
mod login;
mod params;
pub mod pdu;
mod serial;
mod session;
pub mod text;

pub use config::{
    COMMAND_WINDOW_MAX, Config, ConfigError, DigestOffer, IMMEDIATE_WINDOW_MAX, LENGTH_MIN, MAX_CONNECTIONS,
    STAGING_BYTES_MIN,
};
pub use conn::{Connection, ConnectionSeed, ReadTarget, SENSE_LEN_MAX};
pub use error::{CloseReason, IscsiCondition, LoginStatus};
pub use event::{
    AsyncEvent, Authentication, DataOut, Event, LoginGrant, LoginRequest, Referenced, Response, ScsiCommand,
    SendTargetsRequest, SessionInfo, TargetRecord, TaskInfo, TaskTag, TmfRequest,
};
pub use login::keys::{KeyFacts, keys};
pub use params::{Params, SessionType, TaskReporting};
pub use pdu::{Cdb, Isid, LogoutReason, TaskAttribute, TmfFunction, TmfResponse};
pub use serial::Serial;
pub use session::SessionHandle;
