use std::sync::Arc;

use lus_map::{DaemonId, Epoch, LuId};
use lus_map_store::memory::{Memory, WriteFault};
use lusd_ceph::Errno;

use super::*;

const LU: LuId = LuId(uuid::Uuid::from_u128(7));

fn holder(daemon: &str) -> Holder {
    let daemon: DaemonId = daemon.parse().unwrap();
    Holder { daemon, up_from: Epoch(3), addr: "127.0.0.1:0/1".parse().unwrap() }
}

fn state(generation: u32) -> Reservations {
    let initiator = InitiatorPort { name: "iqn.a:b".to_owned(), isid: [1, 2, 3, 4, 5, 6] };
    let other = InitiatorPort { name: "iqn.a:c".to_owned(), isid: [0; 6] };
    let registrations = vec![
        Registration { initiator, target_port: Some(4), key: 7, holder: true },
        Registration { initiator: other, target_port: None, key: u64::MAX, holder: false },
    ];
    let kind = Some(ReservationType::ExclusiveAccessRegistrantsOnly);
    Reservations { generation, aptpl: true, kind, registrations }
}

async fn keeper() -> (Memory, RecordKeeper) {
    let memory = Memory::default();
    let records = RecordStore::new(Arc::new(memory.clone()));
    let holder = holder("a");
    let record = records.transition(&LU, |record| record.claim(&holder)).await.unwrap();
    let known = record.reservations.clone();
    (memory, RecordKeeper { records, record, holder, known })
}

#[test]
fn every_state_survives_the_record() {
    for kind in ReservationType::ALL {
        let mut state = state(5);
        state.kind = Some(kind);
        state.registrations[0].holder = !kind.is_all_registrants();
        assert_eq!(from_kept(&to_kept(&state)), state);
    }
    assert_eq!(to_kept(&Reservations::default()), kept::Reservations::default());
    assert_eq!(lus_map::record::REGISTRATIONS_MAX, lusd_scsi::REGISTRATIONS_MAX);
}

#[tokio::test]
async fn what_is_written_is_there_for_the_next_one() {
    let (_, mut keeper) = keeper().await;
    assert_eq!(keeper.write(&state(1)).await, Written::Done);
    let kept = keeper.records.read(&LU).await.unwrap().unwrap();
    assert_eq!((from_kept(&kept.reservations), &kept), (state(1), &keeper.record));
    assert_eq!(keeper.look().await, None, "nobody changed it");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_found_out() {
    let (memory, mut keeper) = keeper().await;
    for (at, fault) in
        [WriteFault::MadeUnanswered, WriteFault::LostUnanswered, WriteFault::Late].into_iter().enumerate()
    {
        memory.fail_writes([fault]);
        let next = state(at as u32 + 1);
        assert_eq!(keeper.write(&next).await, Written::Done);
        let kept = keeper.records.read(&LU).await.unwrap().unwrap();
        assert_eq!((from_kept(&kept.reservations), &kept), (next, &keeper.record));
    }
    memory.fail_writes([WriteFault::Fails(Errno::EACCES)]);
    assert_eq!(keeper.write(&state(9)).await, Written::NotDone);
    assert_eq!(keeper.write(&state(9)).await, Written::Done);
}

#[tokio::test]
async fn who_else_writes_the_record_is_seen() {
    let (_, mut keeper) = keeper().await;
    assert_eq!(keeper.write(&state(1)).await, Written::Done);
    // An announcement of a move changes nothing of this.
    let to = "b".parse().unwrap();
    keeper.records.transition(&LU, |record| record.begin_move(&to)).await.unwrap();
    assert_eq!(keeper.write(&state(2)).await, Written::Done);
    // An administrator clears them.
    let cleared = Reservations { generation: 3, ..Reservations::default() };
    keeper.records.transition(&LU, LuRecord::clear_reservations).await.unwrap();
    assert_eq!(keeper.write(&state(3)).await, Written::Other(cleared.clone()));
    assert_eq!(keeper.write(&state(4)).await, Written::Done);
    keeper.records.transition(&LU, LuRecord::clear_reservations).await.unwrap();
    assert_eq!(keeper.look().await, Some(Reservations { generation: 5, ..cleared }));
    assert_eq!(keeper.look().await, None);
    // A record that was read anew for another reason, such as a move that was taken back, hides nothing.
    assert_eq!(keeper.write(&state(6)).await, Written::Done);
    keeper.record = keeper.records.transition(&LU, LuRecord::clear_reservations).await.unwrap();
    let cleared = Reservations { generation: 7, ..Reservations::default() };
    assert_eq!(keeper.write(&state(7)).await, Written::Other(cleared));
    // Another daemon holds it.
    let me = keeper.holder.clone();
    keeper.records.transition(&LU, |record| record.release(&me)).await.unwrap();
    keeper.records.transition(&LU, |record| record.claim(&holder("b"))).await.unwrap();
    assert_eq!((keeper.look().await, keeper.write(&state(6)).await), (None, Written::Lost));
}
