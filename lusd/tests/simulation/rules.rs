//! The rules that can be broken on purpose, to see that an oracle notices.

use lus_map::judge::Rules;

macro_rules! rules {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A rule that a run leaves out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Rule { $($(#[doc = $doc])* $name,)* }
    };
}

rules! {
    /// 1: a client is on record before it opens an image.
    AddressesAhead,
    /// 1: it leaves the record fenced only.
    AddressesStay,
    /// 2: a new start inherits what the older one left unfenced.
    ToFenceInherited,
    /// 2: a start that is superseded ends.
    SupersededEnds,
    /// 3: a takeover fences although the lock is free.
    FenceThoughFree,
    /// 3: one that released and still holds the lock is fenced before it is broken.
    FenceTheLeaving,
    /// 3: the recorded holder is fenced, not whoever holds the lock now.
    FenceTheRecorded,
    /// 3: the lock of a client that is not of LUS is left alone.
    ForeignLeftAlone,
    /// 4: a takeover fences.
    Fence,
    /// 4: for years.
    LongExpiry,
    /// 4: the OSD map is awaited in the client that does the I/O.
    MapAwaited,
    /// 4: the LU epoch is raised.
    EpochRaised,
    /// 4: first the fence, then the lock is broken.
    FenceFirst,
    /// 4: an owner asks whether it holds the lock.
    OwnershipAsked,
    /// A record is written only over the one that was read.
    RecordCompared,
    /// Nothing is inside when an LU is released.
    Drained,
    /// Who stood still resets its sessions.
    StallBound,
    /// Nobody writes as the leader of a term that is over.
    Term,
    JudgeTwoLooks,
    JudgeLooksApart,
    JudgeNotItself,
    JudgeOwnWatch,
    JudgeFailedLook,
    JudgeSlowLook,
    JudgeGap,
    JudgePatience,
    JudgeNoFailover,
}

/// The judge's rules without those; none if none of them is the judge's.
pub(crate) fn of_judge(broken: &[Rule]) -> Option<Rules> {
    let mut rules = Rules::ALL;
    for rule in broken {
        *match rule {
            Rule::JudgeTwoLooks => &mut rules.two_looks,
            Rule::JudgeLooksApart => &mut rules.looks_apart,
            Rule::JudgeNotItself => &mut rules.not_itself,
            Rule::JudgeOwnWatch => &mut rules.own_watch,
            Rule::JudgeFailedLook => &mut rules.failed_look,
            Rule::JudgeSlowLook => &mut rules.slow_look,
            Rule::JudgeGap => &mut rules.gap,
            Rule::JudgePatience => &mut rules.patience,
            Rule::JudgeNoFailover => &mut rules.nofailover,
            _ => continue,
        } = false;
    }
    (rules != Rules::ALL).then_some(rules)
}
