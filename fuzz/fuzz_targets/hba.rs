//! Rules and maps, the file that they may include, and a login that asks for its rule. The parts are separated by a
//! byte 1: rules, maps, the file `more`, database, user, address, the name that a certificate has.
#![no_main]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use pgsluice_config::{Attempt, Channel, Dialect, parse};

const CONFIG: &str = "auth_type = \"hba\"\nauth_hba_file = \"hba\"\nauth_ident_file = \"ident\"\n\
    client_tls_sslmode = \"prefer\"\nclient_tls_cert_file = \"c\"\nclient_tls_key_file = \"k\"\nclient_tls_ca_file = \"a\"\n\
    [databases.x]\nhost = \"h\"\n";

fuzz_target!(|text: &str| {
    let mut parts = text.split('\u{1}');
    let mut next = || parts.next().unwrap_or_default();
    let (hba, ident, more) = (next(), next(), next());
    let (database, user, address, name) = (next(), next(), next(), next());
    let files: BTreeMap<PathBuf, String> =
        [("hba", hba), ("ident", ident), ("more", more)].map(|(file, text)| (file.into(), text.to_owned())).into();
    let config = match parse(Dialect::Toml, CONFIG, Path::new("pgsluice.toml"), &files) {
        Ok((config, warnings)) => {
            warnings.iter().for_each(|warning| assert!(!warning.to_string().is_empty()));
            config
        }
        Err(problems) => return assert!(!problems.to_string().is_empty()),
    };
    let rules = config.hba.as_ref().expect("rules were read");
    let address = address.parse().ok();
    for channel in [Channel::Local, Channel::Plain, Channel::Tls] {
        for replication in [false, true] {
            let attempt = Attempt { channel, address, database, user, replication };
            let found = rules.find(&attempt);
            // Whoever is let in is let in by a rule of the file.
            assert!(found.is_none_or(|rule| rules.rules().contains(rule)));
            let map = found.and_then(|rule| rule.map.as_deref());
            let allowed = config.ident.allows(map, name, user);
            assert!(map.is_some() || allowed == (name == user));
        }
    }
});
