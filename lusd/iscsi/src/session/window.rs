//! The command window: ExpCmdSN and MaxCmdSN (RFC 7143 4.2.2.1).
//!
//! Invariants: MaxCmdSN never goes back; at most `size` numbered commands are in progress; ExpCmdSN <= MaxCmdSN + 1.

use smallvec::SmallVec;

use crate::serial::Serial;

/// What to do with a numbered PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is the next one.
    InOrder,
    /// Outside of the window, or seen before: RFC 7143 4.2.2.1 wants silence.
    Ignore,
    /// Inside of the window, but one before it is missing.
    Gap,
}

#[derive(Debug)]
pub(crate) struct CommandWindow {
    exp_cmd_sn: Serial,
    /// As it was last sent.
    max_cmd_sn: Serial,
    size: u32,
    /// Numbered commands in progress.
    in_progress: u32,
    closed: bool,
    /// Numbers after ExpCmdSN that count as received because ABORT TASK named them (RFC 7143 11.5.5). Bounded by the window.
    aborted_ahead: SmallVec<[Serial; 2]>,
}

impl CommandWindow {
    pub(crate) fn new(exp_cmd_sn: Serial, size: u32) -> Self {
        assert!(size > 0, "a command window needs room for a command");
        Self {
            exp_cmd_sn,
            max_cmd_sn: exp_cmd_sn.sub(1),
            size,
            in_progress: 0,
            closed: false,
            aborted_ahead: SmallVec::new(),
        }
    }

    /// Judges the number of a PDU, and counts the PDU as received if it is the next one.
    pub(crate) fn admit(&mut self, cmd_sn: Serial) -> Admission {
        if cmd_sn == self.exp_cmd_sn && !cmd_sn.is_after(self.max_cmd_sn) {
            self.advance();
            Admission::InOrder
        } else if self.is_gap(cmd_sn) {
            Admission::Gap
        } else {
            Admission::Ignore
        }
    }

    /// True if the number lies within the window, has not come, and one before it is missing.
    pub(crate) fn is_gap(&self, cmd_sn: Serial) -> bool {
        cmd_sn != self.exp_cmd_sn && self.holds(cmd_sn) && !self.aborted_ahead.contains(&cmd_sn)
    }

    fn advance(&mut self) {
        self.exp_cmd_sn = self.exp_cmd_sn.next();
        while let Some(i) = self.aborted_ahead.iter().position(|sn| *sn == self.exp_cmd_sn) {
            self.aborted_ahead.swap_remove(i);
            self.exp_cmd_sn = self.exp_cmd_sn.next();
        }
    }

    /// True if the number lies within [ExpCmdSN, MaxCmdSN].
    pub(crate) fn holds(&self, cmd_sn: Serial) -> bool {
        !cmd_sn.is_before(self.exp_cmd_sn) && !cmd_sn.is_after(self.max_cmd_sn)
    }

    /// True if a command before this number has not come: of an immediate request, which has the number of the command that is to follow.
    pub(crate) fn is_ahead(&self, cmd_sn: Serial) -> bool {
        cmd_sn.is_after(self.exp_cmd_sn) && !cmd_sn.is_after(self.max_cmd_sn.next())
    }

    /// Counts a number within the window as received though it has not come.
    pub(crate) fn give_up(&mut self, cmd_sn: Serial) {
        assert!(self.holds(cmd_sn));
        if cmd_sn == self.exp_cmd_sn {
            self.advance();
        } else if !self.aborted_ahead.contains(&cmd_sn) {
            self.aborted_ahead.push(cmd_sn);
        }
    }

    pub(crate) fn task_started(&mut self) {
        self.in_progress += 1;
        assert!(self.in_progress <= self.size, "more tasks in progress than the window admits");
    }

    pub(crate) fn task_ended(&mut self) {
        self.in_progress -= 1;
    }

    pub(crate) fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
    }

    #[cfg(test)]
    pub(crate) fn exp_cmd_sn(&self) -> Serial {
        self.exp_cmd_sn
    }

    /// What MaxCmdSN could be now.
    fn max_possible(&self) -> Serial {
        let max = self.exp_cmd_sn.add(self.size - self.in_progress).sub(1);
        if self.closed || !max.is_after(self.max_cmd_sn) { self.max_cmd_sn } else { max }
    }

    /// ExpCmdSN and MaxCmdSN for a PDU that is about to be sent.
    pub(crate) fn stamp(&mut self) -> (Serial, Serial) {
        self.max_cmd_sn = self.max_possible();
        (self.exp_cmd_sn, self.max_cmd_sn)
    }

    /// True if the initiator believes that it may send nothing while it could: it has to be told.
    pub(crate) fn must_announce(&self) -> bool {
        self.max_cmd_sn.next() == self.exp_cmd_sn && self.max_possible() != self.max_cmd_sn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(start: u32, size: u32) -> CommandWindow {
        let mut window = CommandWindow::new(Serial(start), size);
        window.stamp();
        window
    }

    #[test]
    fn in_order_across_the_wrap() {
        let mut w = window(u32::MAX - 1, 4);
        assert_eq!(w.stamp(), (Serial(u32::MAX - 1), Serial(1)));
        for sn in [u32::MAX - 1, u32::MAX, 0, 1] {
            assert_eq!(w.admit(Serial(sn)), Admission::InOrder);
            w.task_started();
        }
        assert_eq!(w.admit(Serial(2)), Admission::Ignore, "the window is full");
        assert_eq!(w.stamp(), (Serial(2), Serial(1)));
        assert!(!w.must_announce());
        w.task_ended();
        assert!(w.must_announce());
        assert_eq!(w.stamp(), (Serial(2), Serial(2)));
        assert!(!w.must_announce());
    }

    #[test]
    fn what_lies_outside_is_ignored_and_what_is_ahead_is_a_gap() {
        let mut w = window(10, 4);
        assert_eq!(w.admit(Serial(9)), Admission::Ignore);
        assert_eq!(w.admit(Serial(14)), Admission::Ignore);
        assert_eq!(w.admit(Serial(12)), Admission::Gap);
        assert_eq!(w.admit(Serial(10)), Admission::InOrder);
        assert_eq!(w.admit(Serial(10)), Admission::Ignore);
    }

    #[test]
    fn a_closed_window_stands_still_and_never_goes_back() {
        let mut w = window(0, 4);
        w.set_closed(true);
        for sn in 0..4 {
            assert_eq!(w.admit(Serial(sn)), Admission::InOrder);
            assert_eq!(w.stamp().1, Serial(3));
        }
        assert_eq!(w.admit(Serial(4)), Admission::Ignore);
        assert!(!w.must_announce());
        w.set_closed(false);
        assert!(w.must_announce());
        assert_eq!(w.stamp(), (Serial(4), Serial(7)));
    }

    #[test]
    fn numbers_given_up_count_as_received() {
        let mut w = window(5, 8);
        w.give_up(Serial(7));
        assert_eq!(w.admit(Serial(7)), Admission::Ignore);
        w.give_up(Serial(5));
        assert_eq!(w.exp_cmd_sn(), Serial(6));
        assert_eq!(w.admit(Serial(6)), Admission::InOrder);
        assert_eq!(w.exp_cmd_sn(), Serial(8));
    }

    proptest! {
        #[test]
        fn never_back_and_never_more_than_the_window(start in any::<u32>(), size in 1..40u32, steps in proptest::collection::vec(0..4u8, 0..400)) {
            let mut w = window(start, size);
            let (mut running, mut last_max) = (0, w.stamp().1);
            for step in steps {
                match step {
                    0 | 1 if w.holds(w.exp_cmd_sn()) => {
                        prop_assert_eq!(w.admit(w.exp_cmd_sn()), Admission::InOrder);
                        w.task_started();
                        running += 1;
                    }
                    2 if running > 0 => { w.task_ended(); running -= 1; }
                    3 => { let closed = !w.closed; w.set_closed(closed); }
                    _ => {}
                }
                let (exp, max) = w.stamp();
                prop_assert!(!max.is_before(last_max));
                prop_assert!(max.next().since(exp) + running <= size);
                last_max = max;
            }
        }
    }
}
