//! A configuration in TOML: good, or everything that is wrong with it in words.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match pgsluice_config::parse_toml(text, Path::new("pgsluice.conf")) {
        Ok((config, warnings)) => {
            let _ = (config.clone(), warnings.len());
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
