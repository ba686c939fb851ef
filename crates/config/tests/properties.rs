//! For any text no parser panics; for any settings both dialects and the console's text say the same.

use std::fmt::Write;
use std::path::Path;

use pgsluice_config::{Config, Dialect, SETTINGS, Settings, SslMode, SslNegotiation, parse_ini, parse_toml, parse_url};
use proptest::prelude::*;

/// Values of which every kind of setting takes some.
const CANDIDATES: &[&str] = &[
    "0",
    "1",
    "2",
    "17",
    "90",
    "0.25",
    "1234.5",
    "0700",
    "session",
    "statement",
    "trust",
    "plain",
    "md5",
    "/var/x y",
    "a, b",
    "DISCARD ALL; -- \"quoted\" \\ 'text'",
    "",
    "localhost",
    "10.1.2.3, ::1",
    "[::1]:9127",
    "never",
    "require",
    "tlsv1.3",
    "listen=error temp=warn",
    "all=ignore sequence=pin",
];

/// Settings in which every key was given a random value that its kind takes.
fn any_settings() -> impl Strategy<Value = Settings> {
    prop::collection::vec(0..CANDIDATES.len(), SETTINGS.len()).prop_map(|picks| {
        let mut settings = Settings::default();
        for (setting, start) in SETTINGS.iter().zip(picks) {
            // The first candidate from there that the kind takes, if any.
            let mut turns = CANDIDATES.iter().cycle().skip(start).take(CANDIDATES.len());
            turns.find(|value| settings.set(setting.key, value).is_ok());
        }
        // Not in question here: files to read, and contradictions.
        (settings.auth_file, settings.auth_hba_file, settings.auth_ident_file) = (None, None, None);
        settings.passfile = None;
        settings.auth_dbname = String::new();
        settings.server_tls_sslnegotiation = SslNegotiation::Postgres;
        settings.min_pool_size = 0;
        settings.client_tls_sslmode = SslMode::Disable;
        settings.server_tls_sslmode = settings.server_tls_sslmode.min(SslMode::Require);
        (settings.client_tls_cert_file, settings.client_tls_key_file) = (None, None);
        (settings.server_tls_cert_file, settings.server_tls_key_file) = (None, None);
        settings.budget_critical = 100;
        settings.fleet_dbname = "postgres".to_string();
        settings.listen_addr = vec!["localhost".to_string(), "::1".to_string()];
        settings
    })
}

fn unsourced(config: Config) -> Config {
    Config { source: None, ..config }
}

/// Texts that look like configurations often enough to get deep into the parsers.
fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "[databases]",
        "[databases.a]",
        "[users]",
        "[pgbouncer]",
        "[",
        "]",
        "=",
        " = ",
        "'",
        "\"",
        "\"\"",
        "''",
        "\n",
        "\n",
        "%include x",
        "%",
        "#",
        ";",
        "host",
        "port=1",
        "user=a",
        "listen_addr",
        "query_timeout",
        "1e400",
        "-1",
        "99999999999999999999",
        "0o777",
        "0x",
        "nan",
        "\\",
        "\u{0}",
        "ä",
        "🦀",
        "*",
        ".",
        "{",
        "}",
        ",",
        "2020-01-01",
        "auth_file",
        "password='x",
        "listen_addr = \"[::1\"",
        "true",
        "\r\n",
        "\t",
    ]);
    let made = prop::collection::vec(pieces, 0..40).prop_map(|p| p.concat());
    prop_oneof![made, any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_dialects_say_the_same(settings in any_settings()) {
        let mut ini = String::from("[databases]\napp = host=db port=5433 user=u password='it''s' pool_size=3\n");
        ini += "[users]\nu = pool_mode=statement query_timeout=0.5\n[pgbouncer]\n";
        let mut toml = String::new();
        for setting in SETTINGS {
            writeln!(ini, "{} = {}", setting.key, setting.show(&settings)).unwrap();
            writeln!(toml, "{} = {}", setting.key, setting.toml(&settings)).unwrap();
        }
        toml += "[databases.app]\nhost = \"db\"\nport = 5433\nuser = \"u\"\npassword = \"it's\"\npool_size = 3\n";
        toml += "[users.u]\npool_mode = \"statement\"\nquery_timeout = \"500ms\"\n";
        let from_ini = parse_ini(&ini, Path::new("p.ini")).map_err(|e| TestCaseError::fail(format!("{e}\n{ini}")))?;
        let from_toml = parse_toml(&toml, Path::new("p.toml")).map_err(|e| TestCaseError::fail(format!("{e}\n{toml}")))?;
        prop_assert_eq!(&from_ini.0.settings, &settings);
        prop_assert_eq!(unsourced(from_ini.0), unsourced(from_toml.0));
    }

    #[test]
    fn shown_values_can_be_set(settings in any_settings()) {
        let mut copy = Settings::defaults(Dialect::Ini);
        for row in settings.rows() {
            copy.set(row.key, &row.value).map_err(|e| TestCaseError::fail(e.to_string()))?;
        }
        prop_assert_eq!(copy, settings);
    }

    #[test]
    fn no_text_panics(text in any_text()) {
        for result in [parse_ini(&text, Path::new("p.ini")), parse_toml(&text, Path::new("p.toml"))] {
            match result {
                Ok((config, _)) => prop_assert!(!config.databases.is_empty()),
                Err(problems) => {
                    prop_assert!(!problems.0.is_empty());
                    prop_assert!(!problems.to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn no_url_panics(text in "(postgres://)?[a-z%@:/?=&\\[\\]0-9,ä.]{0,40}") {
        if let Ok(url) = parse_url(&text) {
            prop_assert!(!url.user.is_empty() && !url.host.is_empty() && url.port != 0 && !url.dbname.is_empty());
        }
    }
}
