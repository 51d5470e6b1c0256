//! The REPORT LUNS well-known logical unit (SPC-4 8.2): what it answers, which is all that may be asked of it.
//!
//! It is always ready, has nothing that changes but the inventory, and keeps nothing for a nexus: unit attentions are told by the
//! logical units that hosts use.

use super::ready::test_unit_ready_of_nothing;
use super::{inquiry, report_luns, request_sense};
use crate::cdb::Cdb;
use crate::plan::{Plan, Request};
use crate::sense::{CheckCondition, Fault};
use crate::table::{self, Handler};

type Handle = fn(&Request<'_>) -> Result<Plan, CheckCondition>;

/// Operation codes of INQUIRY, REPORT LUNS, REQUEST SENSE, TEST UNIT READY: it has these, and no other (SPC-4 table 663).
const COMMANDS: [(u8, Handle); 4] =
    [(0x00, test_unit_ready_of_nothing), (0x03, request_sense), (0x12, inquiry), (0xa0, report_luns)];

pub(crate) fn plan(cdb: Cdb, len: usize, context: &crate::Context<'_>) -> Result<Plan, CheckCondition> {
    let row = table::find(&cdb, len)?;
    let command = COMMANDS.iter().find(|(opcode, _)| *opcode == cdb.opcode());
    let (_, handler) = command.ok_or(Fault::InvalidOperationCode)?;
    row.check(&cdb, len, false)?;
    debug_assert!(cdb.opcode() == 0x00 || matches!(row.handler, Handler::Target(_)));
    handler(&Request { cdb, context, unit: None })
}
