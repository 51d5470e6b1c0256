//! READ CAPACITY where another daemon serves the unit: the answer waits for a look at the image, so that a host that has just been told of a
//! new size hears the same on every path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lusd_iscsi::{DataOut, ScsiCommand, TaskTag};
use lusd_scsi::{Context, Lun, Step};

use super::answer::{end, good, put_off, refuse};
use super::session::{Carrier, Session, Task};
use crate::lun::job::Entry;
use crate::lun::unit::Unit;

/// How long an answer waits for the look: below what hosts wait for an answer. Then it is what was seen last.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// A command that waits for a look.
pub(super) struct Asking {
    pub(super) unit: Arc<Unit>,
    command: ScsiCommand,
    entry: Entry,
    look: u64,
    until: Instant,
}

impl Asking {
    /// Whether tasks of its unit were ended since it came.
    pub(super) fn is_ended(&self) -> bool {
        self.entry.is_ended(&self.unit)
    }
}

/// READ CAPACITY (10), or (16).
fn asks_for_capacity(cdb: &[u8]) -> bool {
    match cdb {
        [0x25, ..] => true,
        [0x9e, service_action, ..] => service_action & 0x1f == 0x10,
        _ => false,
    }
}

impl Session {
    /// Whether the command is to wait for a look at its unit; then it is taken over.
    pub(super) fn looks_first(
        &mut self,
        command: &ScsiCommand,
        unit: &Arc<Unit>,
        entry: Entry,
        cx: &mut Carrier<'_>,
    ) -> bool {
        if !asks_for_capacity(command.cdb.as_slice()) {
            return false;
        }
        let Some(look) = unit.ask_for_look(cx.now) else { return false };
        cx.proto.accept(command.tag, DataOut::None);
        let (unit, command, until) = (unit.clone(), command.clone(), cx.now + LOOK_PATIENCE);
        let tag = command.tag;
        self.set(tag, Task::Asking(Asking { unit, command, entry, look, until }));
        self.asking = true;
        true
    }

    /// Answers those whose look is over, or takes too long.
    pub(super) fn answer_looked_at(&mut self, cx: &mut Carrier<'_>) {
        if !std::mem::take(&mut self.asking) {
            return;
        }
        for index in 0..self.tasks.len() {
            let Some((tag, Task::Asking(asking))) = &self.tasks[index] else { continue };
            if !asking.unit.was_looked_at(asking.look) && cx.now < asking.until {
                self.asking = true;
                continue;
            }
            let tag = *tag;
            let Some(Task::Asking(asking)) = self.take(tag) else { unreachable!("looked at above") };
            if asking.entry.is_ended(&asking.unit) {
                end(cx.proto, tag, &asking.unit, 0);
            } else {
                self.tell_capacity(tag, &asking.command, cx);
            }
        }
    }

    fn tell_capacity(&self, tag: TaskTag, command: &ScsiCommand, cx: &mut Carrier<'_>) {
        let lun = Lun::from_wire(command.lun.to_be_bytes());
        let slot = lun.and_then(|lun| self.luns.0.get(&lun));
        let context = Context { lun, port: &self.port, session: &self.luns };
        let unit = slot.map(|slot| &*slot.unit);
        match lusd_scsi::plan(command.cdb.as_slice(), &context, slot.map(|slot| slot.scsi())) {
            Ok(mut plan) => {
                if let Some(unit) = unit {
                    let edtl = u64::from(command.expected_data_transfer_length);
                    plan.limit_data_in(&unit.scsi, if command.read { edtl } else { 0 });
                }
                match plan.step {
                    Step::Reply(data) => good(cx.proto, tag, data, plan.transfer_in),
                    Step::Status(status) => put_off(cx.proto, tag, status, 0),
                    _ => unreachable!("READ CAPACITY touches no block"),
                }
            }
            // A new size is told as a unit attention first; the host asks again.
            Err(check) => refuse(cx.proto, tag, &check, unit, 0),
        }
    }
}
