//! A URL of a database.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_config::{config_from_url, parse_url};

fuzz_target!(|text: &str| match parse_url(text) {
    Ok(url) => drop(config_from_url(&url, &["127.0.0.1:6432".to_owned()])),
    Err(problems) => assert!(!problems.to_string().is_empty()),
});
