//! A list of users, named by a configuration.
#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pgsluice_config::{Dialect, Files, parse};

struct One(BTreeMap<&'static str, String>);

impl Files for One {
    fn read(&self, path: &Path) -> io::Result<String> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        self.0.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fuzz_target!(|text: &str| {
    let files = One(BTreeMap::from([("users.txt", text.to_owned())]));
    let config = "[databases]\nx = host=h\n[pgbouncer]\nlisten_addr = *\nauth_file = users.txt\n";
    if let Err(problems) = parse(Dialect::Ini, config, Path::new("pgbouncer.ini"), &files) {
        assert!(!problems.to_string().is_empty());
    }
});
