//! From a CDB to a plan: what is to be transferred, and what is to be done.

use bytes::Bytes;

use crate::block::{BlockOp, Comparand};
use crate::cdb::Cdb;
use crate::lun::Lun;
use crate::nexus::NexusLu;
use crate::reservation::{Access, PrOut, ReserveRequest, Reserved};
use crate::sbc::{FormatList, OverwriteList, UnmapList, WriteSamePattern};
use crate::sense::{CheckCondition, Fault};
use crate::spc::{self, CopyList, ExtendedCopy, ModeSelect};
use crate::status::Status;
use crate::table::{self, Flags, Handler, Row};
use crate::{AccessState, LogicalUnit, Operation, TargetPort};

/// What a session shows of its logical units, for REPORT LUNS.
pub trait SessionView {
    /// Calls `each` for every LUN of the session in ascending order, with the nexus's state where there is one.
    fn visit(&self, each: &mut dyn FnMut(Lun, Option<&NexusLu>));
}

/// Where a command came from and where it is addressed.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The addressed LUN; `None` for a wire form that cannot name one ([`Lun::from_wire`]).
    pub lun: Option<Lun>,
    /// The target port that received the command.
    pub port: &'a TargetPort,
    /// The session that received it.
    pub session: &'a dyn SessionView,
}

/// The addressed logical unit, and what the nexus has not been told about it.
#[derive(Clone, Copy)]
pub struct Unit<'a> {
    /// The logical unit.
    pub lu: &'a LogicalUnit,
    /// The nexus's state.
    pub nexus: &'a NexusLu,
}

/// What a command will do.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of data-out that the command wants; 0: none.
    pub transfer_out: u64,
    /// Bytes of data-in that the command returns when it ends with GOOD; for the residual count.
    pub transfer_in: u64,
    /// What is to be done.
    pub step: Step,
    /// Set where data-out must be exactly as long as `transfer_out`: the CDB's field that is wrong where it is not.
    pub exact_at: Option<u16>,
}

/// What is to be done once data-out is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: status GOOD with this data-in, which is already cut to the allocation length.
    Reply(Bytes),
    /// Look at data-out first: [`Parameters::finish`].
    Parameters(Parameters),
    /// Ask the backend.
    Block(BlockOp),
    /// Ask whoever keeps the reservations.
    Reserve(ReserveRequest),
    /// Nothing: this status, without data.
    Status(Status),
}

/// A command that depends on the contents of its data-out.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameters(pub(crate) ParametersKind);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParametersKind {
    ModeSelect(ModeSelect),
    SendDiagnostic,
    Unmap(UnmapList),
    WriteSame(WriteSamePattern),
    Copy(CopyList),
    Overwrite(OverwriteList),
    Format(FormatList),
    PrOut(PrOut),
}

/// What remains once data-out has been looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing: status GOOD.
    Done,
    /// Ask the backend; data-out goes with it.
    Block(BlockOp),
    /// Copy between logical units.
    Copy(Box<ExtendedCopy>),
    /// Ask whoever keeps the reservations.
    Reserve(ReserveRequest),
    /// Nothing: this status.
    Status(Status),
}

impl Parameters {
    /// Checks `data_out` (at most [`Plan::transfer_out`] bytes) and does what needs no medium.
    pub fn finish(self, unit: Unit<'_>, data_out: &[u8]) -> Result<After, CheckCondition> {
        // Data-out may have taken long to arrive.
        let needs_unit = self.0 != ParametersKind::SendDiagnostic;
        if needs_unit && unit.lu.access() != AccessState::Serving {
            return Err(unit.lu.displaced(Some(unit.nexus)));
        }
        if !self.0.reserved().is_allowed(unit.nexus.access()) {
            return Ok(After::Status(Status::ReservationConflict));
        }
        match self.0 {
            ParametersKind::SendDiagnostic => spc::check_diagnostic_page(data_out),
            ParametersKind::ModeSelect(select) => select.finish(unit, data_out),
            ParametersKind::Unmap(list) => list.finish(unit.lu, data_out),
            ParametersKind::WriteSame(pattern) => pattern.finish(unit.lu, data_out),
            ParametersKind::Copy(list) => list.finish(unit, data_out),
            ParametersKind::Overwrite(list) => list.finish(unit.lu, data_out),
            ParametersKind::Format(list) => list.finish(data_out),
            ParametersKind::PrOut(list) => list.finish(data_out),
        }
    }
}

impl ParametersKind {
    /// As the row of the command has it.
    fn reserved(&self) -> Reserved {
        match self {
            ParametersKind::PrOut(_) => Reserved::Persistent,
            _ => Reserved::Conflict,
        }
    }
}

impl Plan {
    /// GOOD without data.
    pub(crate) fn done() -> Plan {
        Plan { transfer_out: 0, transfer_in: 0, step: Step::Reply(Bytes::new()), exact_at: None }
    }

    /// GOOD with the first `allocation_length` bytes of `data` (SPC-4).
    pub(crate) fn reply(mut data: Vec<u8>, allocation_length: u32) -> Plan {
        data.truncate(usize::try_from(allocation_length).unwrap_or(usize::MAX));
        Plan {
            transfer_out: 0,
            transfer_in: data.len() as u64,
            step: Step::Reply(data.into()),
            exact_at: None,
        }
    }

    /// An operation of the backend that moves `transfer_out` or `transfer_in` bytes.
    pub(crate) fn block(op: BlockOp, transfer_out: u64, transfer_in: u64) -> Plan {
        Plan { transfer_out, transfer_in, step: Step::Block(op), exact_at: None }
    }

    pub(crate) fn reserve(request: ReserveRequest) -> Plan {
        Plan { step: Step::Reserve(request), ..Plan::done() }
    }

    pub(crate) fn status(status: Status) -> Plan {
        Plan { step: Step::Status(status), ..Plan::done() }
    }

    pub(crate) fn parameters(kind: ParametersKind, transfer_out: u64) -> Plan {
        Plan { transfer_out, transfer_in: 0, step: Step::Parameters(Parameters(kind)), exact_at: None }
    }

    /// The same, for data-out of exactly that length; `at` is the CDB's field that says it.
    pub(crate) fn exactly(mut self, at: u16) -> Plan {
        self.exact_at = Some(at);
        self
    }

    /// Fits the plan to a data-out buffer of `available` bytes (iSCSI: the expected data transfer length, or 0 for
    /// a command that is not marked as a write). To be called before data-out is gathered; `Ok`: how many bytes of it
    /// are wanted. `transfer_out` stays, for the residual count.
    ///
    /// A write, or a comparison, for which less comes than the CDB says is cut to the blocks that come whole (as the residual overflow
    /// tells the host): no block is ever half written. WRITE SAME takes
    /// exactly one block, and what must be alone on its blocks all of its data. What becomes of a short parameter list is decided by [`Parameters::finish`].
    pub fn limit_data_out(&mut self, lu: &LogicalUnit, available: u64) -> Result<u64, CheckCondition> {
        if let Some(at) = self.exact_at
            && available != self.transfer_out
        {
            return Err(CheckCondition::invalid_field(at, None));
        }
        let block_bytes = lu.block_size().bytes();
        match &mut self.step {
            Step::Parameters(Parameters(ParametersKind::WriteSame(_)))
            | Step::Block(BlockOp::Compare { comparand: Comparand::OneBlock, .. }) => {
                if available != self.transfer_out {
                    return Err(Fault::InvalidFieldInInformationUnit.into());
                }
            }
            Step::Block(op) if available < self.transfer_out => {
                if let Some(range) = op.transferred_range_mut() {
                    let whole = available - available % block_bytes;
                    range.len = whole;
                    if whole == 0 {
                        self.step = Step::Reply(Bytes::new());
                    }
                    return Ok(whole);
                }
            }
            Step::Reply(_) | Step::Parameters(_) | Step::Block(_) | Step::Reserve(_) | Step::Status(_) => {}
        }
        Ok(available.min(self.transfer_out))
    }

    /// Fits the plan to a data-in buffer of `available` bytes: blocks of which the host takes nothing are not read.
    /// `transfer_in` stays, for the residual count; data-in may still be longer than `available`.
    pub fn limit_data_in(&mut self, lu: &LogicalUnit, available: u64) {
        if available >= self.transfer_in {
            return;
        }
        if let Step::Block(BlockOp::Read(range)) = &mut self.step {
            range.len = range.len.min(available.next_multiple_of(lu.block_size().bytes()));
            if range.len == 0 {
                self.step = Step::Reply(Bytes::new());
            }
        }
    }
}

/// A request as the handlers that do without a logical unit see it.
pub(crate) struct Request<'a> {
    pub(crate) cdb: Cdb,
    pub(crate) context: &'a Context<'a>,
    pub(crate) unit: Option<Unit<'a>>,
}

impl Request<'_> {
    /// Whether it is addressed to the REPORT LUNS well-known logical unit.
    pub(crate) fn is_to_well_known(&self) -> bool {
        self.context.lun == Some(Lun::REPORT_LUNS)
    }
}

/// While the medium is sanitized or formatted, and after that has failed, nothing that needs it is looked at any closer.
#[cold]
fn check_operation(row: &Row, unit: Unit<'_>) -> Result<(), CheckCondition> {
    if row.flags.has(Flags::NOT_SERVING) || unit.lu.access() != AccessState::Serving {
        return Ok(());
    }
    let checked = unit.lu.check_operation(row.opcode());
    checked.map_err(|check| unit.nexus.take(&unit.lu.attentions).unwrap_or(check))
}

/// Plans one command. `unit` is what the session has under the addressed LUN, `None` if nothing.
///
/// The order of the checks: operation code, an operation on the whole medium, reserved bits, unit attention, access state, reservations, write protection, the
/// command's own fields, its range. `Err`: status CHECK CONDITION, with sense data in the logical unit's
/// [`LogicalUnit::sense_format`].
pub fn plan(cdb: &[u8], context: &Context<'_>, unit: Option<Unit<'_>>) -> Result<Plan, CheckCondition> {
    let len = cdb.len();
    let cdb = Cdb::new(cdb);
    let row = table::find(&cdb, len);
    match unit {
        None if context.lun == Some(Lun::REPORT_LUNS) => spc::plan_well_known(cdb, len, context),
        None => {
            // SAM-5: what an incorrect logical unit number answers.
            let Ok(row) = row else { return Err(Fault::LogicalUnitNotSupported.into()) };
            if !row.flags.has(Flags::WITHOUT_UNIT) {
                return Err(Fault::LogicalUnitNotSupported.into());
            }
            row.check(&cdb, len, false)?;
            match row.handler {
                Handler::Target(handler) => handler(&Request { cdb, context, unit }),
                Handler::Unit(_) => Err(Fault::LogicalUnitNotSupported.into()),
            }
        }
        Some(unit) => {
            let row = row?;
            row.check_offered(unit.lu)?;
            if unit.lu.operation() != Operation::None {
                check_operation(row, unit)?;
            }
            row.check(&cdb, len, unit.lu.is_thin())?;
            if !row.flags.has(Flags::DURING_ATTENTION)
                && let Some(attention) = unit.nexus.take(&unit.lu.attentions)
            {
                return Err(attention);
            }
            unit.lu.access().check_command(row.flags)?;
            let access = unit.nexus.access();
            // Where another daemon serves, what was known here may be out of date.
            let refused = access != Access::Free && !row.reserved_for(&cdb).is_allowed(access);
            if refused && unit.lu.access() == AccessState::Serving {
                return Ok(Plan::status(Status::ReservationConflict));
            }
            if row.flags.has(Flags::WRITES) {
                unit.lu.check_writable()?;
            }
            match row.handler {
                Handler::Unit(handler) => handler(&cdb, unit),
                Handler::Target(handler) => handler(&Request { cdb, context, unit: Some(unit) }),
            }
        }
    }
}
