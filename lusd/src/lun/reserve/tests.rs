use std::time::Duration;

use lusd_scsi::{
    Access, AccessState, Action, Identity, InitiatorPort, LogicalUnit, LogicalUnitConfig, Nexus, NexusLu,
    ReservationType,
};

use super::*;
use crate::lun::backend::Backend;
use crate::lun::gate::{LuEpoch, Refused};
use crate::service::Limits;

struct Bench {
    unit: Arc<Unit>,
    service: Arc<Service>,
    nexuses: [NexusLu; 2],
}

/// Answers as it is told, one after the other.
struct Scripted(Vec<Written>);

impl Keeper for Scripted {
    fn write<'a>(&'a mut self, _: &'a Reservations) -> Boxed<'a, Written> {
        Box::pin(std::future::ready(self.0.remove(0)))
    }
}

impl Bench {
    fn new() -> Self {
        let config = LogicalUnitConfig::new(Identity::new([7; 16]), 1 << 20);
        let scsi = LogicalUnit::new(config, AccessState::Transitioning).unwrap();
        let id = lus_map::LuId(uuid::Uuid::from_u128(7));
        let unit = Unit::new(id, "null:test".to_owned(), scsi, 1);
        unit.serve(LuEpoch(1), Arc::new(Backend::Null));
        let nexuses = [1, 2].map(|isid| {
            let initiator = InitiatorPort { name: "iqn.a:b".to_owned(), isid: [0, 0, 0, 0, 0, isid] };
            NexusLu::new(&unit.scsi, Nexus { initiator, target_port: 1 }, None)
        });
        Self { unit, service: Service::new(Limits::default(), 1), nexuses }
    }

    fn ask(&self, who: usize, request: ReserveRequest) -> (Ask, oneshot::Receiver<Reply>) {
        let (answer, answered) = oneshot::channel();
        let (nexus, reset_generation) = (self.nexuses[who].handle(), self.unit.reset_generation());
        let (aborts, before) = (nexus.aborts(), Instant::now() + Duration::from_secs(60));
        (Ask { request, nexus, reset_generation, aborts, before, answer }, answered)
    }

    async fn run(&self, who: usize, request: ReserveRequest, keeper: &mut dyn Keeper) -> Option<Reply> {
        let (ask, answered) = self.ask(who, request);
        carry_out(&self.unit, &self.service, ask, keeper).await;
        answered.await.ok()
    }

    fn is_open(&self) -> bool {
        match self.unit.gate.enter(0) {
            Ok(permit) => {
                let _ = self.unit.gate.leave(permit);
                true
            }
            Err(refused) => {
                assert_eq!(refused, Refused::Shut);
                false
            }
        }
    }
}

fn register(new_key: u64) -> ReserveRequest {
    let (also, all_target_ports, aptpl) = (None, false, false);
    ReserveRequest::Persistent(Action::Register { key: None, new_key, also, all_target_ports, aptpl })
}

fn reserve(key: u64) -> ReserveRequest {
    let kind = Some(ReservationType::WriteExclusive);
    ReserveRequest::Persistent(Action::Reserve { key, kind })
}

const GOOD: Option<Reply> = Some(Reply::Answer(Ok(())));

#[tokio::test]
async fn what_is_not_written_does_not_count() {
    let bench = Bench::new();
    let reply = bench.run(0, register(1), &mut Scripted(vec![Written::NotDone])).await;
    assert_eq!((reply, bench.unit.scsi.reservations().generation), (Some(Reply::Busy), 0));
    assert_eq!(bench.run(0, register(1), &mut Volatile).await, GOOD);
    let reply = bench.run(0, reserve(1), &mut Scripted(vec![Written::NotDone])).await;
    assert_eq!((reply, bench.unit.scsi.reservations().kind), (Some(Reply::Busy), None));
    assert!(bench.is_open());
}

#[tokio::test]
async fn what_somebody_else_wrote_is_taken_over_before_it_is_decided_again() {
    let bench = Bench::new();
    assert_eq!(bench.run(0, register(1), &mut Volatile).await, GOOD);
    let cleared = Reservations { generation: 9, ..Reservations::default() };
    let reply = bench.run(0, reserve(1), &mut Scripted(vec![Written::Other(cleared.clone())])).await;
    assert_eq!(reply, Some(Reply::Answer(Err(Refusal::Conflict))), "it is not registered any more");
    assert_eq!(*bench.unit.scsi.reservations(), cleared);
    let other = Written::Other(Reservations { generation: 20, ..Reservations::default() });
    assert_eq!(bench.run(1, register(2), &mut Scripted(vec![other, Written::Done])).await, GOOD);
    assert_eq!(bench.unit.scsi.reservations().generation, 21);
    assert!(bench.is_open());
}

#[tokio::test]
async fn when_the_lu_is_lost_nothing_is_answered_and_nothing_enters() {
    let bench = Bench::new();
    assert_eq!(bench.run(0, register(1), &mut Volatile).await, GOOD);
    let reply = bench.run(0, reserve(1), &mut Scripted(vec![Written::Lost])).await;
    assert_eq!((reply, bench.is_open()), (None, false));
    assert!(bench.unit.was_lost(LuEpoch(1)));
}

#[tokio::test]
async fn a_narrowing_change_is_written_while_nothing_is_under_way() {
    let bench = Bench::new();
    struct Looking<'a>(&'a Unit, Vec<bool>);
    impl Keeper for Looking<'_> {
        fn write<'a>(&'a mut self, _: &'a Reservations) -> Boxed<'a, Written> {
            self.1.push(matches!(
                self.0.gate.enter(0).map(|permit| self.0.gate.leave(permit)),
                Err(Refused::Held)
            ));
            Box::pin(std::future::ready(Written::Done))
        }
    }
    let mut keeper = Looking(&bench.unit, Vec::new());
    for (who, request) in [
        (0, register(1)),
        (1, register(2)),
        (0, reserve(1)),
        (1, register(3)),
        (
            0,
            ReserveRequest::Persistent(Action::Release {
                key: 1,
                kind: Some(ReservationType::WriteExclusive),
            }),
        ),
    ] {
        assert_eq!(bench.run(who, request, &mut keeper).await, GOOD);
    }
    assert_eq!(keeper.1, [false, false, true, false, false], "RESERVE alone takes something from others");
}

#[tokio::test]
async fn asks_that_are_over_are_not_begun() {
    let bench = Bench::new();
    let (ask, answered) = bench.ask(0, register(1));
    bench.unit.raise_reset_generation();
    carry_out(&bench.unit, &bench.service, ask, &mut Volatile).await;
    assert_eq!(answered.await, Ok(Reply::Aborted), "a reset came between");
    let (ask, answered) = bench.ask(0, register(1));
    let late = Ask { before: Instant::now() - Duration::from_millis(1), ..ask };
    carry_out(&bench.unit, &bench.service, late, &mut Volatile).await;
    assert_eq!(answered.await, Ok(Reply::Busy), "its initiator may have given it up");
    let (ask, answered) = bench.ask(1, register(1));
    let Bench { unit, service, nexuses } = bench;
    drop(nexuses);
    carry_out(&unit, &service, ask, &mut Volatile).await;
    assert_eq!(answered.await, Ok(Reply::Aborted), "its session has ended");
    assert_eq!(unit.scsi.reservations().generation, 0);
}

/// A host that was shut out does not come back by what it had sent before.
#[tokio::test]
async fn preempt_and_abort_ends_asks_that_wait() {
    let bench = Bench::new();
    assert_eq!(bench.run(0, register(1), &mut Volatile).await, GOOD);
    assert_eq!(bench.run(1, register(2), &mut Volatile).await, GOOD);
    let (ask, answered) = bench.ask(1, register(3));
    let preempt = Action::Preempt { key: 1, victim: 2, kind: None, abort: true };
    assert_eq!(bench.run(0, ReserveRequest::Persistent(preempt), &mut Volatile).await, GOOD);
    carry_out(&bench.unit, &bench.service, ask, &mut Volatile).await;
    assert_eq!(answered.await, Ok(Reply::Aborted));
    let state = bench.unit.scsi.reservations();
    assert_eq!(state.registrations.iter().map(|own| own.key).collect::<Vec<_>>(), [1]);
    assert_eq!(bench.run(1, register(3), &mut Volatile).await, GOOD, "what it sends afterwards counts");
}

/// What is under way may take long to end; until then much can have become of the ask.
#[tokio::test]
async fn asks_that_have_ended_when_the_gate_is_drained_are_not_carried_out() {
    for request in [reserve(1), ReserveRequest::Reserve] {
        for ends in [true, false] {
            let bench = Bench::new();
            if let ReserveRequest::Persistent(_) = request {
                assert_eq!(bench.run(0, register(1), &mut Volatile).await, GOOD);
            }
            let (ask, answered) = bench.ask(0, request.clone());
            let ask = Ask { before: Instant::now() + Duration::from_millis(20), ..ask };
            let permit = bench.unit.gate.enter(0).unwrap();
            let mut volatile = Volatile;
            let carried = carry_out(&bench.unit, &bench.service, ask, &mut volatile);
            let meanwhile = async {
                tokio::task::yield_now().await;
                assert_eq!(bench.unit.gate.enter(0).unwrap_err(), Refused::Held, "it waits for the gate");
                tokio::time::sleep(Duration::from_millis(30)).await;
                if ends {
                    bench.unit.raise_reset_generation();
                }
                let _ = bench.unit.gate.leave(permit);
            };
            tokio::join!(carried, meanwhile);
            let (reply, access) = match (ends, &request) {
                (true, _) => (Reply::Aborted, Access::Free),
                (false, ReserveRequest::Reserve) => (Reply::Answer(Ok(())), Access::ReservedBySpc2),
                (false, _) => (Reply::Answer(Ok(())), Access::WriteExclusive),
            };
            assert_eq!((answered.await, bench.nexuses[1].access()), (Ok(reply), access));
            assert!(bench.is_open());
        }
    }
}

#[tokio::test]
async fn a_desk_is_bounded_and_answers_all_when_it_shuts() {
    let bench = Bench::new();
    let mut waiting = Vec::new();
    for _ in 0..WAITING_MAX {
        let (ask, answered) = bench.ask(0, register(1));
        bench.unit.desk.put(ask);
        waiting.push(answered);
    }
    let (ask, answered) = bench.ask(0, register(1));
    bench.unit.desk.put(ask);
    assert_eq!(answered.await, Ok(Reply::Busy));
    drop(bench.unit.desk.next().await);
    assert!(waiting.remove(0).await.is_err(), "dropped without an answer");
    bench.unit.stop(AccessState::Standby).await;
    for answered in waiting {
        assert_eq!(answered.await, Ok(Reply::Displaced));
    }
    let (ask, answered) = bench.ask(0, register(1));
    bench.unit.desk.put(ask);
    assert_eq!(answered.await, Ok(Reply::Displaced));
}
