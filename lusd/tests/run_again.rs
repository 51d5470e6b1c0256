//! A process that runs itself again while its threads begin others: librados does so at any time, and aborts where it cannot.

use std::process::Command;
use std::time::Duration;

use lus_map::Epoch;
use lusd::process::{EarlierLife, run_again};

const LIVES: u32 = 60;
const LIVED: &str = "the last life has ended";

#[test]
fn threads_may_begin_while_the_process_runs_itself_again() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let child =
        command.args(["--exact", "child", "--nocapture"]).env("LUSD_TEST_RUN_AGAIN", "1").output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains(LIVED), "{}: {said}", child.status);
}

/// What the test above runs; nothing by itself.
#[test]
fn child() {
    if std::env::var_os("LUSD_TEST_RUN_AGAIN").is_none() {
        return;
    }
    let count = EarlierLife::of_process().map_or(0, |earlier| earlier.count);
    if count == LIVES {
        return eprintln!("{LIVED}");
    }
    for _ in 0..4 {
        std::thread::spawn(|| {
            loop {
                if let Err(error) = std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join()) {
                    eprintln!("no thread: {error}");
                    std::process::abort();
                }
            }
        });
    }
    // The threads above are to be in the middle of their work.
    std::thread::park_timeout(Duration::from_millis(10));
    panic!("{}", run_again(EarlierLife { count: count + 1, up_from: Epoch(1) }, None));
}
