//! A password file, and PGPASSWORD behind a byte 1 if there is one.
#![no_main]

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use pgsluice_config::{Dialect, Files, parse};

struct Environment<'a> {
    file: &'a str,
    variable: Option<&'a str>,
}

impl Files for Environment<'_> {
    fn read(&self, path: &Path) -> io::Result<String> {
        if path == Path::new("/home/x/.pgpass") {
            Ok(self.file.to_owned())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.variable.filter(|_| name == "PGPASSWORD").map(OsString::from)
    }

    fn home(&self) -> Option<PathBuf> {
        Some("/home/x".into())
    }
}

const CONFIG: &str =
    "[databases.a]\nhost = \"/tmp\"\nuser = \"u\"\n[databases.b]\nhost = \"::1\"\nport = 1\nuser = \"a:b\\\\\"\n";

fuzz_target!(|text: &str| {
    let (file, variable) = text.split_once('\u{1}').map_or((text, None), |(file, variable)| (file, Some(variable)));
    match parse(Dialect::Toml, CONFIG, Path::new("pgsluice.toml"), &Environment { file, variable }) {
        Ok((config, warnings)) => {
            warnings.iter().for_each(|warning| assert!(!warning.to_string().is_empty()));
            for password in
                [config.server_password("a", "u"), config.server_password("b", "a:b\\")].into_iter().flatten()
            {
                assert!(!password.expose().is_empty() && !password.expose().contains('\0'));
            }
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
