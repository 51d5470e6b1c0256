//! Tests: operations that have a range for themselves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use super::*;

fn opened() -> Gate {
    let gate = Gate::new(2);
    gate.open(LuEpoch(1));
    gate
}

fn range(offset: u64, len: u64) -> Range {
    Range { offset, len }
}

fn waker() -> Arc<Notify> {
    Arc::default()
}

/// Whether `waker` was woken since the last look.
fn woken(waker: &Notify) -> bool {
    let mut notified = std::pin::pin!(waker.notified());
    notified.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn is_ready(future: &mut std::pin::Pin<Box<impl Future<Output = ()>>>) -> bool {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

#[test]
fn what_overlaps_is_held_off_and_woken() {
    let gate = opened();
    let (first, second) = (waker(), waker());
    let alone = gate.enter_alone(0, range(10, 10), &first).unwrap();
    assert_eq!(gate.enter_on(1, &[range(0, 5), range(19, 1)], &second).unwrap_err(), Refused::Held);
    assert_eq!(gate.enter_on(1, &[range(19, 1)], &second).unwrap_err(), Refused::Held);
    assert_eq!(gate.enter_alone(1, range(5, 6), &second).unwrap_err(), Refused::Held);
    let beside = gate.enter_on(1, &[range(0, 10), range(20, 1)], &second).unwrap();
    let flush = gate.enter_on(1, &[], &second).unwrap();
    let other = gate.enter_alone(1, range(20, 5), &second).unwrap();
    assert!(!woken(&second));
    assert_eq!(gate.leave(alone), Verdict::Answer);
    assert!(woken(&second) && !woken(&second), "once");
    assert!(!woken(&first));
    let again = gate.enter_on(1, &[range(19, 1)], &second).unwrap();
    for permit in [beside, flush, other, again] {
        gate.leave(permit);
    }
    assert_eq!(gate.inside(), 0);
}

#[test]
fn it_waits_for_those_before_it_and_for_nobody_else() {
    let gate = opened();
    // Twice, so that either lane is the one that is left.
    for _ in 0..2 {
        let before = [0, 1].map(|shard| gate.enter_on(shard, &[range(0, 1)], &waker()).unwrap());
        let permit = gate.enter_alone(0, range(100, 1), &waker()).unwrap();
        let mut alone = Box::pin(gate.alone(&permit));
        assert!(!is_ready(&mut alone));
        let after = gate.enter_on(0, &[range(0, 1)], &waker()).unwrap();
        let [a, b] = before;
        gate.leave(a);
        assert!(!is_ready(&mut alone));
        gate.leave(b);
        assert!(is_ready(&mut alone), "what came later is not waited for");
        drop(alone);
        gate.leave(permit);
        gate.leave(after);
    }
}

#[test]
fn one_wait_serves_all_that_began_before_it() {
    let gate = opened();
    let before = gate.enter(0).unwrap();
    let permits = [0, 1, 2].map(|at| gate.enter_alone(0, range(at, 1), &waker()).unwrap());
    let mut waits: Vec<_> = permits.iter().map(|permit| Box::pin(gate.alone(permit))).collect();
    assert!(waits.iter_mut().all(|wait| !is_ready(wait)));
    gate.leave(before);
    assert!(waits.iter_mut().all(is_ready));
    drop(waits);
    for permit in permits {
        gate.leave(permit);
    }
}

#[test]
fn a_wait_that_is_given_up_harms_nobody() {
    let gate = opened();
    let before = gate.enter(0).unwrap();
    let first = gate.enter_alone(0, range(0, 1), &waker()).unwrap();
    let mut wait = Box::pin(gate.alone(&first));
    assert!(!is_ready(&mut wait));
    drop(wait);
    gate.leave(first);
    let second = gate.enter_alone(0, range(0, 1), &waker()).unwrap();
    let mut wait = Box::pin(gate.alone(&second));
    assert!(!is_ready(&mut wait));
    gate.leave(before);
    assert!(is_ready(&mut wait));
    drop(wait);
    gate.leave(second);
}

#[test]
fn barriers_and_revocation_count_it_too() {
    let gate = opened();
    let permit = gate.enter_alone(0, range(0, 1), &waker()).unwrap();
    let mut barrier = Box::pin(async { drop(gate.barrier().await.expect("open")) });
    assert!(!is_ready(&mut barrier));
    assert_eq!(gate.enter_alone(0, range(5, 1), &waker()).unwrap_err(), Refused::Held);
    assert_eq!(gate.leave(permit), Verdict::Answer);
    assert!(is_ready(&mut barrier));
    drop(barrier);
    let permit = gate.enter_alone(0, range(0, 1), &waker()).unwrap();
    gate.revoke();
    assert_eq!(gate.enter_alone(0, range(5, 1), &waker()).unwrap_err(), Refused::Shut);
    assert_eq!(gate.leave(permit), Verdict::Revoked);
    assert_eq!(gate.inside(), 0);
}

/// Two threads enter for few blocks, two want blocks for themselves: nobody is ever beside one of those.
#[test]
fn threads_are_never_inside_beside_one_that_is_alone() {
    const BLOCKS: u64 = 4;
    /// In a block's count: somebody is alone on it.
    const ALONE: u64 = 1 << 32;
    const ROUNDS: u64 = 2000;
    let (gate, stop) = (Gate::new(4), AtomicBool::new(false));
    gate.open(LuEpoch(1));
    let blocks: [AtomicU64; BLOCKS as usize] = Default::default();
    std::thread::scope(|scope| {
        let (gate, blocks, stop) = (&gate, &blocks, &stop);
        for shard in [0, 1] {
            scope.spawn(move || {
                let mut at = shard as u64;
                while !stop.load(SeqCst) {
                    at = (at * 5 + 1) % BLOCKS;
                    let Ok(permit) = gate.enter_on(shard, &[range(at, 1)], &waker()) else { continue };
                    assert!(blocks[at as usize].fetch_add(1, SeqCst) < ALONE, "beside one that is alone");
                    std::thread::yield_now();
                    blocks[at as usize].fetch_sub(1, SeqCst);
                    gate.leave(permit);
                }
            });
        }
        let alone = [2, 3].map(|shard| {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let (mut done, mut at) = (0, shard as u64);
                while done < ROUNDS {
                    at = (at * 5 + 1) % BLOCKS;
                    let Ok(permit) = gate.enter_alone(shard, range(at, 1), &waker()) else { continue };
                    runtime.block_on(gate.alone(&permit));
                    assert_eq!(blocks[at as usize].fetch_add(ALONE, SeqCst), 0, "not alone");
                    std::thread::yield_now();
                    assert_eq!(blocks[at as usize].fetch_sub(ALONE, SeqCst), ALONE, "not alone");
                    gate.leave(permit);
                    done += 1;
                }
            })
        });
        for thread in alone {
            thread.join().unwrap();
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(gate.inside(), 0);
}
