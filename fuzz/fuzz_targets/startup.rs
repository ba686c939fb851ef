//! The first message of a connection, and the options inside it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_wire::{STARTUP_LEN_MAX, Startup};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some((message, len))) = Startup::read(bytes) else { return };
    assert!(len <= bytes.len() && len <= STARTUP_LEN_MAX);
    if let Startup::Message { params, .. } = message {
        assert!(params.iter().all(|(name, value)| !name.is_empty() && !value.contains(&0)));
    }
});
