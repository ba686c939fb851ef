//! The console's side of the protocol, with a caller that answers whatever it wants.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_console::{Access, Console, Snapshot, Want};

fuzz_target!(|bytes: &[u8]| {
    let mut console = Console::new(Access::Admin);
    let mut pending = bytes.to_vec();
    for _ in 0..10_000 {
        let taken = console.handle_client(&pending);
        assert!(taken <= pending.len());
        pending.drain(..taken);
        let said = std::mem::take(console.outbox());
        let want = console.poll_want();
        if taken == 0 && said.is_empty() && want.is_none() {
            return;
        }
        match want {
            Some(Want::Snapshot(_)) => console.handle_snapshot(&Snapshot::default()),
            Some(Want::Run(_)) => console.handle_outcome(Ok(())),
            Some(Want::Close) => return,
            None => {}
        }
    }
    panic!("the console does not come to rest");
});
