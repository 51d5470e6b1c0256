//! The commands: one row each. The dispatcher, REPORT SUPPORTED OPERATION CODES and COMMANDS.md read the same rows.

use std::fmt;

use crate::cdb::{CDB_BYTES_MAX, Cdb};
use crate::plan::{Plan, Request, Unit};
use crate::reservation::{self as pr, Reserved};
use crate::sense::{CheckCondition, Fault};
use crate::{LogicalUnit, sbc, spc};

/// Properties of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// None of the others.
    pub const NONE: Flags = Flags(0);
    /// Answered where the LUN has no logical unit.
    pub const WITHOUT_UNIT: Flags = Flags(1);
    /// Answered in every access state.
    pub const NOT_SERVING: Flags = Flags(1 << 1);
    /// Not interrupted by a pending unit attention (SAM-5 5.14).
    pub const DURING_ATTENTION: Flags = Flags(1 << 2);
    /// Reads the medium.
    pub const READS: Flags = Flags(1 << 3);
    /// Changes the medium.
    pub const WRITES: Flags = Flags(1 << 4);
    /// Offered by thin provisioned logical units only.
    pub const THIN: Flags = Flags(1 << 5);
    /// Answered in standby too.
    pub const STANDBY: Flags = Flags(1 << 6);
    /// Offered by logical units with target port groups only.
    pub const ASYMMETRIC: Flags = Flags(1 << 7);

    const NAMES: [(Flags, &'static str); 8] = [
        (Flags::WITHOUT_UNIT, "without unit"),
        (Flags::NOT_SERVING, "not serving"),
        (Flags::DURING_ATTENTION, "during attention"),
        (Flags::READS, "reads"),
        (Flags::WRITES, "writes"),
        (Flags::THIN, "thin"),
        (Flags::STANDBY, "standby"),
        (Flags::ASYMMETRIC, "asymmetric"),
    ];

    const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[inline]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (flag, name) in Flags::NAMES {
            if self.has(flag) {
                write!(f, "{}{name}", if first { "" } else { ", " })?;
                first = false;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// Needs a logical unit.
    Unit(fn(&Cdb, Unit<'_>) -> Result<Plan, CheckCondition>),
    /// Is about the target, the session or the nexus.
    Target(fn(&Request<'_>) -> Result<Plan, CheckCondition>),
}

/// A command of the table.
pub struct Row {
    /// Name as in SPC-4 and SBC-3.
    pub name: &'static str,
    /// CDB usage data (SPC-4): byte 0 is the operation code, a service action stands in its place, a bit is
    /// one if it is looked at. Its length is the CDB's.
    pub usage: &'static [u8],
    /// Whether byte 1 carries a service action.
    pub has_service_action: bool,
    /// Properties.
    pub flags: Flags,
    /// Bits of byte 1 that are reserved where the logical unit is not thin provisioned.
    pub thin_bits: u8,
    /// RECOMMENDED COMMAND TIMEOUT, in seconds.
    pub timeout_s: u32,
    /// Under which reservations of others it is allowed.
    pub reserved: Reserved,
    /// The same where byte 4 of the CDB has this value under this mask.
    pub reserved_if: Option<(u8, u8, Reserved)>,
    pub(crate) handler: Handler,
    /// The bits that must be zero, as [`Cdb::bits`] places them.
    reserved_bits: u128,
}

impl Row {
    const fn new(
        name: &'static str,
        usage: &'static [u8],
        flags: Flags,
        timeout_s: u32,
        handler: Handler,
    ) -> Row {
        let mut reserved_bits = 0;
        let mut at = 0;
        assert!(usage.len() <= CDB_BYTES_MAX);
        while at < usage.len() {
            reserved_bits |= ((!usage[at]) as u128) << (8 * (CDB_BYTES_MAX - 1 - at));
            at += 1;
        }
        // What only reads passes Write Exclusive; what says where and what the unit is passes all.
        let reserved = if flags.has(Flags::WRITES) {
            Reserved::Conflict
        } else if flags.has(Flags::READS) {
            Reserved::WriteExclusive
        } else if flags.has(Flags::NOT_SERVING) {
            Reserved::Always
        } else {
            Reserved::Conflict
        };
        Row {
            name,
            usage,
            has_service_action: false,
            flags,
            thin_bits: 0,
            timeout_s,
            reserved,
            reserved_if: None,
            handler,
            reserved_bits,
        }
    }

    const fn service_action(mut self) -> Row {
        self.has_service_action = true;
        self
    }

    /// Other than what follows from the flags.
    const fn reserved(mut self, reserved: Reserved) -> Row {
        self.reserved = reserved;
        self
    }

    /// Other where byte 4 of the CDB is `value` under `mask`.
    const fn reserved_if(mut self, mask: u8, value: u8, reserved: Reserved) -> Row {
        self.reserved_if = Some((mask, value, reserved));
        self
    }

    /// Under which reservations of others this CDB is allowed.
    pub(crate) fn reserved_for(&self, cdb: &Cdb) -> Reserved {
        match self.reserved_if {
            Some((mask, value, reserved)) if cdb.u8(4) & mask == value => reserved,
            _ => self.reserved,
        }
    }

    const fn thin_bits(mut self, bits: u8) -> Row {
        self.thin_bits = bits;
        self
    }

    /// OPERATION CODE.
    pub const fn opcode(&self) -> u8 {
        self.usage[0]
    }

    /// SERVICE ACTION; 0 for commands without.
    pub const fn service_action_code(&self) -> u8 {
        if self.has_service_action { self.usage[1] & 0x1f } else { 0 }
    }

    /// Whether a logical unit offers the command.
    #[inline]
    pub fn is_offered(&self, lu: &LogicalUnit) -> bool {
        (!self.flags.has(Flags::THIN) || lu.is_thin())
            && (!self.flags.has(Flags::ASYMMETRIC) || lu.is_asymmetric())
    }

    /// Refuses what the logical unit does not offer as if it were not in the table.
    #[inline]
    pub(crate) fn check_offered(&self, lu: &LogicalUnit) -> Result<(), CheckCondition> {
        if self.is_offered(lu) {
            Ok(())
        } else if self.has_service_action {
            Err(NO_SUCH_SERVICE_ACTION)
        } else {
            Err(Fault::InvalidOperationCode.into())
        }
    }

    /// Refuses a CDB that is too short or has a reserved bit set. An operation code fixes the CDB's length, so what
    /// follows it is padding.
    #[inline]
    pub(crate) fn check(&self, cdb: &Cdb, len: usize, thin: bool) -> Result<(), CheckCondition> {
        if len < self.usage.len() {
            return Err(CheckCondition::invalid_field(len as u16, None));
        }
        let thin_bits = if thin { 0 } else { u128::from(self.thin_bits) << (8 * (CDB_BYTES_MAX - 2)) };
        let wrong = cdb.bits() & (self.reserved_bits | thin_bits);
        if wrong != 0 {
            let at = wrong.leading_zeros();
            return Err(CheckCondition::invalid_field((at / 8) as u16, Some(7 - (at % 8) as u8)));
        }
        Ok(())
    }
}

/// Answered from memory.
const QUICK_S: u32 = 10;
/// Goes to the cluster: as long as Linux and Windows wait for a disk command (30 and 60 s), whichever is longer.
const MEDIUM_S: u32 = 60;
/// May touch many objects.
const LONG_S: u32 = 120;
/// Touches all of them: a day.
const WHOLE_S: u32 = 86_400;

const SURVEY: Flags = Flags::WITHOUT_UNIT.and(Flags::NOT_SERVING).and(Flags::DURING_ATTENTION);
const PORT_GROUPS: Flags = Flags::NOT_SERVING.and(Flags::ASYMMETRIC);
const READ: Flags = Flags::READS;
const WRITE: Flags = Flags::WRITES;

/// Sorted by operation code, then service action.
#[rustfmt::skip]
static ROWS: &[Row] = &[
    Row::new("TEST UNIT READY", &[0x00, 0, 0, 0, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(spc::test_unit_ready)).reserved(Reserved::Persistent),
    Row::new("REQUEST SENSE", &[0x03, 0x01, 0, 0, 0xff, 0], SURVEY, QUICK_S, Handler::Target(spc::request_sense)),
    Row::new("FORMAT UNIT", &[0x04, 0x38, 0, 0, 0, 0], WRITE, WHOLE_S, Handler::Unit(sbc::format_unit)),
    Row::new("READ (6)", &[0x08, 0x1f, 0xff, 0xff, 0xff, 0], READ, MEDIUM_S, Handler::Unit(sbc::read_6)),
    Row::new("WRITE (6)", &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::write_6)),
    Row::new("INQUIRY", &[0x12, 0x01, 0xff, 0xff, 0xff, 0], SURVEY, QUICK_S, Handler::Target(spc::inquiry)),
    Row::new("MODE SELECT (6)", &[0x15, 0x10, 0, 0, 0xff, 0], Flags::NONE, QUICK_S, Handler::Unit(spc::mode_select_6)),
    Row::new("RESERVE (6)", &[0x16, 0, 0, 0, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(pr::reserve_6)).reserved(Reserved::Always),
    Row::new("RELEASE (6)", &[0x17, 0, 0, 0, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(pr::release_6)).reserved(Reserved::Always),
    Row::new("MODE SENSE (6)", &[0x1a, 0x08, 0xff, 0xff, 0xff, 0], Flags::STANDBY, QUICK_S, Handler::Unit(spc::mode_sense_6)).reserved(Reserved::WriteExclusive),
    Row::new("START STOP UNIT", &[0x1b, 0x01, 0, 0, 0x05, 0], Flags::NONE, MEDIUM_S, Handler::Unit(sbc::start_stop_unit)).reserved_if(0x01, 0x01, Reserved::Persistent),
    Row::new("RECEIVE DIAGNOSTIC RESULTS", &[0x1c, 0x01, 0xff, 0xff, 0xff, 0], Flags::STANDBY, QUICK_S, Handler::Unit(spc::receive_diagnostic_results)).reserved(Reserved::WriteExclusive),
    Row::new("SEND DIAGNOSTIC", &[0x1d, 0x17, 0, 0xff, 0xff, 0], Flags::STANDBY, QUICK_S, Handler::Unit(spc::send_diagnostic)),
    Row::new("PREVENT ALLOW MEDIUM REMOVAL", &[0x1e, 0, 0, 0, 0x01, 0], Flags::NONE, QUICK_S, Handler::Unit(spc::prevent_allow_medium_removal)).reserved_if(0x03, 0x00, Reserved::Always),
    Row::new("READ CAPACITY (10)", &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Flags::STANDBY, QUICK_S, Handler::Unit(sbc::read_capacity_10)).reserved(Reserved::Persistent),
    Row::new("READ (10)", &[0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], READ, MEDIUM_S, Handler::Unit(sbc::read_10)),
    Row::new("WRITE (10)", &[0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::write_10)),
    Row::new("WRITE AND VERIFY (10)", &[0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::write_and_verify_10)),
    Row::new("VERIFY (10)", &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], READ, MEDIUM_S, Handler::Unit(sbc::verify_10)),
    Row::new("PRE-FETCH (10)", &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], READ, QUICK_S, Handler::Unit(sbc::pre_fetch_10)),
    Row::new("SYNCHRONIZE CACHE (10)", &[0x35, 0x06, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], Flags::NONE, LONG_S, Handler::Unit(sbc::synchronize_cache_10)),
    Row::new("READ DEFECT DATA (10)", &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0], Flags::NONE, QUICK_S, Handler::Unit(sbc::read_defect_data_10)).reserved(Reserved::WriteExclusive),
    Row::new("WRITE SAME (10)", &[0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0], WRITE, LONG_S, Handler::Unit(sbc::write_same_10)).thin_bits(0x08),
    Row::new("UNMAP", &[0x42, 0, 0, 0, 0, 0, 0x1f, 0xff, 0xff, 0], WRITE.and(Flags::THIN), LONG_S, Handler::Unit(sbc::unmap)),
    Row::new("SANITIZE, OVERWRITE", &[0x48, 0xa1, 0, 0, 0, 0, 0, 0xff, 0xff, 0], WRITE, WHOLE_S, Handler::Unit(sbc::sanitize_overwrite)).service_action(),
    Row::new("SANITIZE, BLOCK ERASE", &[0x48, 0xa2, 0, 0, 0, 0, 0, 0, 0, 0], WRITE, WHOLE_S, Handler::Unit(sbc::sanitize_block_erase)).service_action(),
    Row::new("SANITIZE, EXIT FAILURE MODE", &[0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(sbc::sanitize_exit_failure_mode)).service_action(),
    Row::new("LOG SENSE", &[0x4d, 0, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0], Flags::STANDBY, QUICK_S, Handler::Unit(spc::log_sense)).reserved(Reserved::Always),
    Row::new("MODE SELECT (10)", &[0x55, 0x10, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Flags::NONE, QUICK_S, Handler::Unit(spc::mode_select_10)),
    Row::new("RESERVE (10)", &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(pr::reserve_10)).reserved(Reserved::Always),
    Row::new("RELEASE (10)", &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(pr::release_10)).reserved(Reserved::Always),
    Row::new("MODE SENSE (10)", &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], Flags::STANDBY, QUICK_S, Handler::Unit(spc::mode_sense_10)).reserved(Reserved::WriteExclusive),
    Row::new("PERSISTENT RESERVE IN, READ KEYS", &[0x5e, 0x00, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Flags::NONE, QUICK_S, Handler::Unit(pr::read_keys)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE IN, READ RESERVATION", &[0x5e, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Flags::NONE, QUICK_S, Handler::Unit(pr::read_reservation)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE IN, REPORT CAPABILITIES", &[0x5e, 0x02, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Flags::NONE, QUICK_S, Handler::Unit(pr::report_capabilities)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE IN, READ FULL STATUS", &[0x5e, 0x03, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Flags::NONE, QUICK_S, Handler::Unit(pr::read_full_status)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE OUT, REGISTER", &[0x5f, 0x00, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Flags::NONE, MEDIUM_S, Handler::Unit(pr::register)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE OUT, RESERVE", &[0x5f, 0x01, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Flags::NONE, MEDIUM_S, Handler::Unit(pr::reserve)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE OUT, RELEASE", &[0x5f, 0x02, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Flags::NONE, MEDIUM_S, Handler::Unit(pr::release)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE OUT, CLEAR", &[0x5f, 0x03, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Flags::NONE, MEDIUM_S, Handler::Unit(pr::clear)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE OUT, PREEMPT", &[0x5f, 0x04, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Flags::NONE, MEDIUM_S, Handler::Unit(pr::preempt)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE OUT, PREEMPT AND ABORT", &[0x5f, 0x05, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Flags::NONE, MEDIUM_S, Handler::Unit(pr::preempt_and_abort)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY", &[0x5f, 0x06, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Flags::NONE, MEDIUM_S, Handler::Unit(pr::register_and_ignore_existing_key)).service_action().reserved(Reserved::Persistent),
    Row::new("PERSISTENT RESERVE OUT, REGISTER AND MOVE", &[0x5f, 0x07, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Flags::NONE, MEDIUM_S, Handler::Unit(pr::register_and_move)).service_action().reserved(Reserved::Persistent),
    Row::new("EXTENDED COPY (LID1)", &[0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Flags::NONE, LONG_S, Handler::Unit(spc::extended_copy)).service_action(),
    Row::new("RECEIVE COPY STATUS (LID1)", &[0x84, 0x00, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(spc::copy_status)).service_action().reserved(Reserved::Persistent),
    Row::new("RECEIVE COPY OPERATING PARAMETERS", &[0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(spc::operating_parameters)).service_action().reserved(Reserved::Persistent),
    Row::new("RECEIVE COPY FAILURE DETAILS (LID1)", &[0x84, 0x04, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(spc::failed_segment_details)).service_action().reserved(Reserved::Persistent),
    Row::new("READ (16)", &[0x88, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], READ, MEDIUM_S, Handler::Unit(sbc::read_16)),
    Row::new("COMPARE AND WRITE", &[0x89, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x1f, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::compare_and_write)),
    Row::new("WRITE (16)", &[0x8a, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::write_16)),
    Row::new("ORWRITE (16)", &[0x8b, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::orwrite_16)),
    Row::new("WRITE AND VERIFY (16)", &[0x8e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::write_and_verify_16)),
    Row::new("VERIFY (16)", &[0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], READ, MEDIUM_S, Handler::Unit(sbc::verify_16)),
    Row::new("PRE-FETCH (16)", &[0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], READ, QUICK_S, Handler::Unit(sbc::pre_fetch_16)),
    Row::new("SYNCHRONIZE CACHE (16)", &[0x91, 0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], Flags::NONE, LONG_S, Handler::Unit(sbc::synchronize_cache_16)),
    Row::new("WRITE SAME (16)", &[0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], WRITE, LONG_S, Handler::Unit(sbc::write_same_16)).thin_bits(0x08),
    Row::new("WRITE ATOMIC (16)", &[0x9c, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0x1f, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::write_atomic_16)),
    Row::new("READ CAPACITY (16)", &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Flags::STANDBY, QUICK_S, Handler::Unit(sbc::read_capacity_16)).service_action().reserved(Reserved::Persistent),
    Row::new("GET LBA STATUS", &[0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], READ, QUICK_S, Handler::Unit(sbc::get_lba_status)).service_action(),
    Row::new("REPORT LUNS", &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], SURVEY, QUICK_S, Handler::Target(spc::report_luns)),
    Row::new("REPORT TARGET PORT GROUPS", &[0xa3, 0x0a | spc::EXTENDED_HEADER, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], PORT_GROUPS, QUICK_S, Handler::Unit(spc::report_target_port_groups)).service_action(),
    Row::new("REPORT SUPPORTED OPERATION CODES", &[0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Flags::NOT_SERVING, QUICK_S, Handler::Unit(spc::report_supported_operation_codes)).service_action(),
    Row::new("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", &[0xa3, 0x0d, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Flags::NOT_SERVING, QUICK_S, Handler::Target(spc::report_supported_task_management_functions)).service_action(),
    Row::new("READ (12)", &[0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], READ, MEDIUM_S, Handler::Unit(sbc::read_12)),
    Row::new("WRITE (12)", &[0xaa, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::write_12)),
    Row::new("WRITE AND VERIFY (12)", &[0xae, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], WRITE, MEDIUM_S, Handler::Unit(sbc::write_and_verify_12)),
    Row::new("VERIFY (12)", &[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], READ, MEDIUM_S, Handler::Unit(sbc::verify_12)),
    Row::new("READ DEFECT DATA (12)", &[0xb7, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Flags::NONE, QUICK_S, Handler::Unit(sbc::read_defect_data_12)).reserved(Reserved::WriteExclusive),
];

/// In `INDEX`: no command has this operation code.
const NO_ROW: u8 = u8::MAX;

/// The first row of each operation code.
static INDEX: [u8; 256] = {
    assert!(ROWS.len() < NO_ROW as usize);
    let mut index = [NO_ROW; 256];
    let mut row = ROWS.len();
    while row > 0 {
        row -= 1;
        index[ROWS[row].opcode() as usize] = row as u8;
    }
    index
};

/// All commands, by operation code and service action.
pub fn commands() -> &'static [Row] {
    ROWS
}

/// All rows of one operation code.
pub(crate) fn rows_of(opcode: u8) -> &'static [Row] {
    match INDEX[usize::from(opcode)] {
        NO_ROW => &[],
        first => {
            let rows = &ROWS[usize::from(first)..];
            let end = rows.iter().position(|row| row.opcode() != opcode).unwrap_or(rows.len());
            &rows[..end]
        }
    }
}

/// The row of a CDB of `len` bytes.
#[inline]
pub(crate) fn find(cdb: &Cdb, len: usize) -> Result<&'static Row, CheckCondition> {
    let first = INDEX[usize::from(cdb.opcode())];
    if len == 0 || first == NO_ROW {
        return Err(Fault::InvalidOperationCode.into());
    }
    let row = &ROWS[usize::from(first)];
    if !row.has_service_action { Ok(row) } else { find_service_action(cdb) }
}

/// INVALID FIELD IN CDB at SERVICE ACTION.
const NO_SUCH_SERVICE_ACTION: CheckCondition = CheckCondition::invalid_field(1, Some(4));

#[cold]
fn find_service_action(cdb: &Cdb) -> Result<&'static Row, CheckCondition> {
    rows_of(cdb.opcode())
        .iter()
        .find(|row| row.service_action_code() == cdb.service_action())
        .ok_or(NO_SUCH_SERVICE_ACTION)
}
