//! The files in `config/` that users start from: each loads, and the reference is exactly what the tables say.

use std::path::{Path, PathBuf};

use pgsluice_config::{
    AuthType, Config, DATABASE_KEYS, Dialect, PoolMode, SETTINGS, Settings, USER_KEYS, Warning, load, load_ini,
    load_toml, parse_toml, reference_toml,
};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name)
}

fn loaded(name: &str) -> (Config, Vec<Warning>) {
    load(&example(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// `PGSLUICE_BLESS=1 cargo test -p pgsluice-config` writes the file anew.
#[test]
fn the_reference_is_what_the_tables_say() {
    let path = example("reference.toml");
    if std::env::var_os("PGSLUICE_BLESS").is_some() {
        std::fs::write(&path, reference_toml()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), reference_toml());
}

#[test]
fn the_reference_documents_every_key_with_its_default() {
    let text = std::fs::read_to_string(example("reference.toml")).unwrap();
    let defaults = Settings::default();
    for setting in SETTINGS {
        let line = format!("\n{} = {}", setting.key, setting.toml(&defaults));
        let at = text.find(&line).unwrap_or_else(|| panic!("{} is missing", setting.key));
        let above = text[..at].lines().last().unwrap_or_default();
        assert!(above.starts_with("# "), "{} has no meaning above it", setting.key);
    }
    let (config, _) = loaded("reference.toml");
    assert_eq!(config.settings, defaults);
}

#[test]
fn the_references_commented_examples_are_valid() {
    let text = std::fs::read_to_string(example("reference.toml")).unwrap();
    let (_, entries) = text.split_once("# [databases.app]").unwrap();
    let code = |line: &str| line.strip_prefix("# ").filter(|l| !l.starts_with(' ')).map(str::to_string);
    let lines: Vec<String> =
        entries.lines().filter_map(code).filter(|l| l.contains(" = ") || l.starts_with('[')).collect();
    let text = format!("[databases.app]\n{}", lines.join("\n"));
    let (config, _) = parse_toml(&text, Path::new("r.toml")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(lines.len(), DATABASE_KEYS.len() + USER_KEYS.len() + 1);
    assert!(config.users.contains_key("alice") && config.databases["app"].connect_query.is_some());
}

#[test]
fn the_toml_examples_load_without_warnings() {
    for name in ["minimal.toml", "sidecar.toml"] {
        let (config, warnings) = loaded(name);
        assert_eq!(warnings, [], "{name}");
        assert_eq!(config.settings.auth_type, AuthType::ScramSha256, "{name}");
        assert_eq!(config.settings.pool_mode, PoolMode::Transaction, "{name}");
        assert!(!config.settings.admin_users.is_empty(), "{name}");
    }
}

#[test]
fn the_ini_example_loads_with_its_user_list() {
    let (config, warnings) = loaded("pgbouncer.ini");
    assert_eq!(warnings, []);
    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
    // The list is named relative to the ini file, and its quotes are undone.
    assert!(config.users["app"].password.is_some());
    assert_eq!(Dialect::of(&example("pgbouncer.ini")), Dialect::Ini);
}

#[test]
fn a_file_is_read_in_the_dialect_asked_for() {
    assert!(load_ini(&example("minimal.toml")).is_err());
    assert!(load_toml(&example("pgbouncer.ini")).is_err());
    let error = load(Path::new("/nonexistent/p.toml")).expect_err("absent").to_string();
    assert_eq!(error, "/nonexistent/p.toml: cannot be read: entity not found");
}
