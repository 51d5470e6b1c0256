//! The records of logical units, in memory.

use std::sync::Arc;

use lus_map::record::{VERSION_XATTR, record_object};
use lus_map::{Epoch, Fenced, Holder, LuId, LuState, RecordError};
use lus_map_store::memory::{Memory, WriteFault};
use lus_map_store::{RecordStore, RecordWrite, StoreError, TransitionError};
use lusd_ceph::Errno;
use uuid::Uuid;

const LU: LuId = LuId(Uuid::from_u128(7));

fn store() -> (Memory, RecordStore) {
    let memory = Memory::default();
    (memory.clone(), RecordStore::new(Arc::new(memory)))
}

fn holder(daemon: &str, nonce: u32) -> Holder {
    Holder {
        daemon: daemon.parse().unwrap(),
        up_from: Epoch(3),
        addr: format!("127.0.0.1:0/{nonce}").parse().unwrap(),
    }
}

#[tokio::test]
async fn each_step_is_compared() {
    let (memory, records) = store();
    assert_eq!(records.read(&LU).await.unwrap(), None);
    let new = records.read_or_create(&LU).await.unwrap();
    assert_eq!((&new.state, new.lu_epoch, new.version), (&LuState::New, Epoch(0), 1));
    assert_eq!(records.read_or_create(&LU).await.unwrap(), new);
    let (a, b) = (holder("a", 1), holder("b", 2));
    let (of_a, of_b) = (new.claim(&a).unwrap(), new.claim(&b).unwrap());
    assert_eq!(records.write(&new, &of_a).await.unwrap(), RecordWrite::Written);
    // Of two that claim it, one wins, and the other learns who.
    assert_eq!(records.write(&new, &of_b).await.unwrap(), RecordWrite::Lost(Some(of_a.clone())));
    assert_eq!(records.read(&LU).await.unwrap(), Some(of_a.clone()));
    let object = memory.object(&record_object(&LU)).unwrap();
    assert_eq!((&object.xattrs["lu_epoch"][..], &object.xattrs["version"][..]), (&b"1"[..], &b"2"[..]));

    // A holder that lost it cannot write any more, whatever it writes.
    let fenced = Fenced { addr: a.addr.clone(), osd_epoch: 9 };
    let taken = records.transition(&LU, |record| record.take_over(&b, &fenced)).await.unwrap();
    assert_eq!(taken.lu_epoch, Epoch(2));
    let stale = of_a.release(&a).unwrap();
    assert_eq!(records.write(&of_a, &stale).await.unwrap(), RecordWrite::Lost(Some(taken.clone())));
    let refused = records.transition(&LU, |record| record.release(&a)).await.unwrap_err();
    assert!(matches!(refused, TransitionError::Refused(RecordError::NotHolder { .. })), "{refused}");

    assert_eq!(records.remove(&of_a).await.unwrap(), RecordWrite::Lost(Some(taken.clone())));
    assert_eq!(records.remove(&taken).await.unwrap(), RecordWrite::Written);
    assert_eq!(records.read(&LU).await.unwrap(), None);
    // Gone is gone: whoever wanted it gone has what it wanted, whoever wanted more is told.
    assert_eq!(records.remove(&taken).await.unwrap(), RecordWrite::Written);
    assert_eq!(records.write(&taken, &taken.release(&b).unwrap()).await.unwrap(), RecordWrite::Lost(None));
}

#[tokio::test]
async fn an_answer_that_is_lost_is_found_out() {
    use WriteFault::{Fails, Late, LostUnanswered, MadeUnanswered};
    for faults in [vec![MadeUnanswered], vec![LostUnanswered], vec![Late], vec![Late, Late, LostUnanswered]] {
        let (memory, records) = store();
        memory.fail_writes(faults.clone());
        let new = records.read_or_create(&LU).await.unwrap();
        memory.fail_writes(faults.clone());
        let serving = records.transition(&LU, |record| record.claim(&holder("a", 1))).await.unwrap();
        assert_eq!((serving.lu_epoch, serving.version), (Epoch(1), 2), "{faults:?}");
        let released = records.transition(&LU, |record| record.release(&holder("a", 1))).await.unwrap();
        assert_eq!(released.version, 3, "{faults:?}");
        assert_eq!(records.read(&LU).await.unwrap(), Some(released.clone()));
        assert_eq!(records.write(&new, &serving).await.unwrap(), RecordWrite::Lost(Some(released)));
    }
    let (memory, records) = store();
    let new = records.read_or_create(&LU).await.unwrap();
    memory.fail_writes([LostUnanswered; 8]);
    let error = records.write(&new, &new.claim(&holder("a", 1)).unwrap()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
    memory.fail_writes([Fails(Errno::ESHUTDOWN)]);
    let error = records.write(&new, &new.claim(&holder("a", 1)).unwrap()).await.unwrap_err();
    assert!(error.is_fenced());
}

#[tokio::test]
async fn corrupt_records_are_named() {
    let (memory, records) = store();
    let object = record_object(&LU);
    records.read_or_create(&LU).await.unwrap();
    memory.edit(&object, |object| drop(object.xattrs.insert(VERSION_XATTR.into(), "2".into())));
    let error = records.read(&LU).await.unwrap_err().to_string();
    assert!(
        error.contains("'lu.00000000-0000-0000-0000-000000000007'") && error.contains("'version'"),
        "{error}"
    );
    memory.edit(&object, |object| object.data = b"\xff\xff".as_slice().into());
    assert!(matches!(records.read(&LU).await, Err(StoreError::Record { .. })));
    assert!(matches!(records.read_or_create(&LU).await, Err(StoreError::Record { .. })));
}

/// Two daemons take a unit from each other for a while: every epoch has one holder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_holder_for_each_epoch() {
    let (memory, records) = store();
    let daemon = |name: &'static str, first: u32| {
        let records = records.clone();
        tokio::spawn(async move {
            let mut held = Vec::new();
            for nonce in first..first + 40 {
                let by = holder(name, nonce);
                let taken = records
                    .transition(&LU, |record| match record.state.holder() {
                        Some(other) => {
                            record.take_over(&by, &Fenced { addr: other.addr.clone(), osd_epoch: 1 })
                        }
                        None => record.claim(&by),
                    })
                    .await;
                match taken {
                    Ok(record) => held.push((record.lu_epoch, name)),
                    Err(TransitionError::Store(StoreError::Unstable { .. })) => {}
                    Err(error) => panic!("{error}"),
                }
                tokio::task::yield_now().await;
            }
            held
        })
    };
    let (a, b) = (daemon("a", 1000), daemon("b", 2000));
    for _ in 0..20 {
        memory.fail_writes([WriteFault::MadeUnanswered]);
        tokio::task::yield_now().await;
    }
    let mut held = a.await.unwrap();
    held.extend(b.await.unwrap());
    held.sort();
    let epochs: Vec<Epoch> = held.iter().map(|(epoch, _)| *epoch).collect();
    assert!(epochs.is_sorted_by(|a, b| a < b), "no epoch twice");
    assert_eq!(records.read(&LU).await.unwrap().unwrap().lu_epoch, *epochs.last().unwrap());
}
