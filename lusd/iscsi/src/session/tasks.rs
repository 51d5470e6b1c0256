//! The tasks of a session, by dense slot and by initiator task tag.
//!
//! Tags are looked up once for each Data-Out PDU and each command, so the index is a table with linear probing, at most half
//! full, and no allocation.

use std::time::Instant;

use bytes::BytesMut;
use slab::Slab;
use smallvec::SmallVec;

use crate::error::IscsiCondition;
use crate::event::{TaskInfo, TaskTag};
use crate::serial::Serial;

/// An R2T whose data has not come whole.
#[derive(Debug)]
pub(crate) struct OutstandingR2t {
    pub target_transfer_tag: u32,
    pub buffer_offset: u32,
    pub length: u32,
    /// Bytes of it that have come.
    pub received: u32,
    pub exp_data_sn: Serial,
}

/// Data on its way into a task.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub buf: BytesMut,
    /// Bytes wanted: what the command asked for, no more than the initiator expects to send.
    pub want: u32,
    /// Offset that the next data must have. Past `want` while surplus unsolicited data is dropped.
    pub next_offset: u32,
    /// The DataSN expected next, while unsolicited Data-Out PDUs may come.
    pub unsolicited: Option<Serial>,
    /// Outstanding R2Ts, oldest first: data comes in their order (DataSequenceInOrder=Yes).
    pub r2ts: SmallVec<[OutstandingR2t; 2]>,
    /// No R2T is sent before the daemon says so.
    pub held: bool,
    /// First byte that no R2T has asked for yet.
    pub r2t_offset: u32,
    /// Why the data cannot be had; then the rest of what was asked for is waited for and dropped (RFC 7143 7.8).
    pub failed: Option<IscsiCondition>,
    /// When data last came.
    pub progress: Instant,
}

impl Transfer {
    /// True while the initiator has been asked for, or sends of its own accord, what has not come.
    pub(crate) fn is_promised(&self) -> bool {
        self.unsolicited.is_some() || !self.r2ts.is_empty()
    }

    pub(crate) fn fail(&mut self, condition: IscsiCondition) {
        self.failed.get_or_insert(condition);
    }
}

#[derive(Debug)]
pub(crate) enum TaskState {
    /// The daemon has not said yet what it wants.
    Offered,
    /// Its data is coming. Boxed: there is several times as much to say of it as of a task, and a read has none.
    Receiving(Box<Transfer>),
    /// It is the daemon's.
    Running,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub initiator_task_tag: u32,
    generation: u32,
    pub lun: u64,
    pub cmd_sn: Serial,
    pub immediate: bool,
    pub read: bool,
    pub write: bool,
    /// "F" was set: no unsolicited Data-Out PDU follows.
    pub is_final: bool,
    pub expected_data_transfer_length: u32,
    pub bidi_read_length: Option<u32>,
    /// Number of the next R2T.
    pub r2t_sn: Serial,
    pub state: TaskState,
}

impl Task {
    pub(crate) fn new(pdu: &crate::pdu::ScsiCommand, bidi_read_length: Option<u32>) -> Self {
        Self {
            initiator_task_tag: pdu.initiator_task_tag,
            generation: 0,
            lun: pdu.lun,
            cmd_sn: pdu.cmd_sn,
            immediate: pdu.immediate,
            read: pdu.read,
            write: pdu.write,
            is_final: pdu.is_final,
            expected_data_transfer_length: pdu.expected_data_transfer_length,
            bidi_read_length,
            r2t_sn: Serial(0),
            state: TaskState::Offered,
        }
    }
}

#[derive(Debug)]
pub(crate) struct TaskTable {
    tasks: Slab<Task>,
    index: TagIndex,
    max: usize,
    next_generation: u32,
    immediate: u32,
    /// Those that are over, for the next ones: no more than there were tasks at once.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    spare: Vec<Box<Transfer>>,
}

impl TaskTable {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            tasks: Slab::new(),
            index: TagIndex::new(max),
            max,
            next_generation: 0,
            immediate: 0,
            spare: Vec::new(),
        }
    }

    /// Immediate commands in progress.
    pub(crate) fn immediate(&self) -> u32 {
        self.immediate
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Adds a task; its initiator task tag must not be in the table.
    pub(crate) fn insert(&mut self, mut task: Task) -> TaskTag {
        assert!(self.tasks.len() < self.max, "more tasks than the windows admit");
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        task.generation = generation;
        self.immediate += u32::from(task.immediate);
        let initiator_task_tag = task.initiator_task_tag;
        let slot = self.tasks.insert(task) as u32;
        self.index.insert(initiator_task_tag, slot);
        TaskTag { slot, generation }
    }

    /// Ends a task.
    ///
    /// # Panics
    /// If it has ended before: each task is ended exactly once.
    pub(crate) fn remove(&mut self, tag: TaskTag) -> Task {
        self.expect(tag);
        let mut task = self.tasks.remove(tag.slot());
        if matches!(task.state, TaskState::Receiving(_)) {
            self.put_by(std::mem::replace(&mut task.state, TaskState::Running));
        }
        self.index.remove(task.initiator_task_tag);
        self.immediate -= u32::from(task.immediate);
        task
    }

    /// Data of a task is to come.
    pub(crate) fn receive(&mut self, tag: TaskTag, transfer: Transfer) {
        let transfer = match self.spare.pop() {
            Some(mut spare) => {
                *spare = transfer;
                spare
            }
            None => Box::new(transfer),
        };
        self.expect(tag).state = TaskState::Receiving(transfer);
    }

    /// No more data of a task is to come.
    pub(crate) fn received(&mut self, tag: TaskTag) {
        let state = std::mem::replace(&mut self.expect(tag).state, TaskState::Running);
        self.put_by(state);
    }

    fn put_by(&mut self, state: TaskState) {
        if let TaskState::Receiving(mut transfer) = state {
            transfer.buf = BytesMut::new();
            self.spare.push(transfer);
        }
    }

    /// # Panics
    /// If the task has ended.
    pub(crate) fn expect(&mut self, tag: TaskTag) -> &mut Task {
        match self.tasks.get_mut(tag.slot()) {
            Some(task) if task.generation == tag.generation => task,
            _ => panic!("{tag:?} has ended already"),
        }
    }

    pub(crate) fn get(&self, tag: TaskTag) -> Option<&Task> {
        self.tasks.get(tag.slot()).filter(|task| task.generation == tag.generation)
    }

    pub(crate) fn find(&self, initiator_task_tag: u32) -> Option<TaskTag> {
        let slot = self.index.find(initiator_task_tag)?;
        Some(TaskTag { slot, generation: self.tasks[slot as usize].generation })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = TaskInfo> + '_ {
        self.tasks
            .iter()
            .map(|(slot, task)| info(TaskTag { slot: slot as u32, generation: task.generation }, task))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.tasks.iter_mut().map(|(_, task)| task)
    }
}

pub(crate) fn info(tag: TaskTag, task: &Task) -> TaskInfo {
    TaskInfo {
        tag,
        initiator_task_tag: task.initiator_task_tag,
        lun: task.lun,
        cmd_sn: task.cmd_sn,
        immediate: task.immediate,
        receiving: matches!(task.state, TaskState::Receiving(_)),
    }
}

/// Initiator task tag to slot, with linear probing and backward-shift removal.
#[derive(Debug)]
struct TagIndex {
    /// (initiator task tag, slot); the slot is [`EMPTY`] where there is nothing.
    entries: Box<[(u32, u32)]>,
    shift: u32,
}

const EMPTY: u32 = u32::MAX;

impl TagIndex {
    fn new(max: usize) -> Self {
        let len = (max * 2).next_power_of_two().max(2);
        Self { entries: vec![(0, EMPTY); len].into(), shift: 32 - len.trailing_zeros() }
    }

    /// Fibonacci hashing: initiators count tags up, or count in some of their bits.
    fn home(&self, tag: u32) -> usize {
        (tag.wrapping_mul(0x9e37_79b9) >> self.shift) as usize
    }

    fn mask(&self) -> usize {
        self.entries.len() - 1
    }

    /// Where the tag is, or the empty place where it would go.
    fn place(&self, tag: u32) -> usize {
        let mut at = self.home(tag);
        while self.entries[at].1 != EMPTY && self.entries[at].0 != tag {
            at = (at + 1) & self.mask();
        }
        at
    }

    fn find(&self, tag: u32) -> Option<u32> {
        let slot = self.entries[self.place(tag)].1;
        (slot != EMPTY).then_some(slot)
    }

    fn insert(&mut self, tag: u32, slot: u32) {
        let at = self.place(tag);
        assert_eq!(self.entries[at].1, EMPTY, "initiator task tag {tag:#x} is in use");
        self.entries[at] = (tag, slot);
    }

    fn remove(&mut self, tag: u32) {
        let mut hole = self.place(tag);
        assert_ne!(self.entries[hole].1, EMPTY, "initiator task tag {tag:#x} is not in use");
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask();
            let (tag, slot) = self.entries[at];
            if slot == EMPTY {
                break;
            }
            // An entry may fill the hole unless its home lies behind the hole.
            let distance = at.wrapping_sub(self.home(tag)) & self.mask();
            if distance >= at.wrapping_sub(hole) & self.mask() {
                self.entries[hole] = (tag, slot);
                hole = at;
            }
        }
        self.entries[hole].1 = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn task(initiator_task_tag: u32) -> Task {
        Task {
            initiator_task_tag,
            generation: 0,
            lun: 0,
            cmd_sn: Serial(0),
            immediate: false,
            read: false,
            write: false,
            is_final: true,
            expected_data_transfer_length: 0,
            bidi_read_length: None,
            r2t_sn: Serial(0),
            state: TaskState::Running,
        }
    }

    #[test]
    #[should_panic(expected = "has ended already")]
    fn a_task_is_ended_once() {
        let mut table = TaskTable::new(4);
        let tag = table.insert(task(1));
        table.remove(tag);
        let again = table.insert(task(1));
        assert_eq!(again.slot(), tag.slot());
        table.remove(tag);
    }

    proptest! {
        /// The index against a map, with tags from a small range so that they collide.
        #[test]
        fn the_index_is_a_map(max in 1..40usize, steps in proptest::collection::vec((0..64u32, any::<u32>()), 0..400)) {
            let mut table = TaskTable::new(max);
            let mut model = HashMap::new();
            for (small, salt) in steps {
                let tag = if salt & 1 == 0 { small } else { small.wrapping_mul(0x0100_0000) };
                prop_assert_eq!(table.find(tag), model.get(&tag).copied());
                if let Some(task) = model.remove(&tag) {
                    prop_assert_eq!(table.remove(task).initiator_task_tag, tag);
                } else if model.len() < max {
                    model.insert(tag, table.insert(task(tag)));
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for (tag, task) in model {
                prop_assert_eq!(table.find(tag), Some(task));
                prop_assert!(task.slot() < max);
            }
        }
    }
}
