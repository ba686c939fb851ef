//! A configuration in PgBouncer's format: good, or everything that is wrong with it in words.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match pgsluice_config::parse_ini(text, Path::new("pgsluice.conf")) {
        Ok((config, warnings)) => {
            let _ = (config.clone(), warnings.len());
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
