//! Texts of console commands.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_console::{parse, parse_all};

fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(command) => drop(command.tag()),
        Err(bad) => assert_eq!(bad.sqlstate().len(), 5),
    }
    let _ = parse_all(text);
});
