//! EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 6.4, 6.20): block to block, between logical units that the session sees.
//!
//! ```text
//!   CDB ─ plan ─ parameter list ─ finish ─► After::Copy(ExtendedCopy) ─► daemon: which unit is which target (`Target::is`),
//!                                               │                then for each segment `ExtendedCopy::segment`, and the blocks
//!                                               └ CopyRecord ◄── progress and end; RECEIVE COPY RESULTS reads it
//! ```

mod list;
mod results;

pub(crate) use self::list::{CopyList, extended_copy};
pub use self::list::{CopyStep, ExtendedCopy, Target};
pub use self::results::CopyRecord;
pub(crate) use self::results::{
    CopyResults, failed_segment_details, operating_parameters, status, third_party_copy,
};

/// MAXIMUM CSCD DESCRIPTOR COUNT.
const TARGETS_MAX: u16 = 8;
/// MAXIMUM SEGMENT DESCRIPTOR COUNT.
const SEGMENTS_MAX: u16 = 16;
/// Bytes of a target descriptor.
const TARGET_BYTES: usize = 32;
/// Bytes of a segment descriptor.
const SEGMENT_BYTES: usize = 28;
/// MAXIMUM DESCRIPTOR LIST LENGTH.
const DESCRIPTORS_BYTES_MAX: u32 =
    TARGETS_MAX as u32 * TARGET_BYTES as u32 + SEGMENTS_MAX as u32 * SEGMENT_BYTES as u32;
/// Bytes in front of the descriptors.
const HEADER_BYTES: usize = 16;
/// MAXIMUM SEGMENT LENGTH, in bytes: bounds the time of one command.
const SEGMENT_LENGTH_MAX: u32 = 64 << 20;
/// DESCRIPTOR TYPE CODE of a block to block segment.
const BLOCK_TO_BLOCK: u8 = 0x02;
/// DESCRIPTOR TYPE CODE of an identification target descriptor.
const IDENTIFICATION: u8 = 0xe4;
