//! The text of `config/reference.toml`, made from the tables that parsing uses, so that it cannot be out of date.

use crate::model::{DATABASE_KEYS, EntryKey, USER_KEYS};
use crate::settings::{Dialect, SETTINGS, Setting, Settings};

const HEAD: &str = "\
# Every key of pgsluice, with its default and meaning. A key that is left out has the value given here.
# Durations are seconds (15, 0.5) or text with a unit (\"500ms\", \"15s\", \"2min\", \"1h\").
# A reload (SIGHUP, or RELOAD in the console) applies all keys but those marked \"restart\".
";

const DATABASES: &str = "
# Databases, by the name clients ask for. \"*\" serves every name without an entry of its own.

[databases.\"*\"]
host = \"127.0.0.1\"
port = 5432

# Keys of a database; settings of the same name apply to those left out.
#
";

const USERS: &str = "
# Users, besides those of auth_file.
#
";

/// The whole reference: a valid configuration.
pub fn reference_toml() -> String {
    let mut out = HEAD.to_string();
    let mut group = "";
    for setting in SETTINGS {
        if setting.group != group {
            group = setting.group;
            out += &format!("\n# ---- {group}\n");
        }
        out += &block(setting, &Settings::default());
    }
    out += DATABASES;
    out += &entries("databases.app", DATABASE_KEYS);
    out += USERS;
    out += &entries("users.alice", USER_KEYS);
    out
}

fn block(setting: &Setting, defaults: &Settings) -> String {
    let mut out = String::from("\n");
    for line in setting.doc {
        out += &format!("#{line}\n");
    }
    let (ours, ini) = (setting.default(Dialect::Toml), setting.default(Dialect::Ini));
    if ours != ini {
        let shown = if ini.is_empty() { "empty" } else { ini };
        out += &format!("# In an ini file the default is PgBouncer's: {shown}.\n");
    }
    let restart = if setting.changeable { "" } else { "    # restart" };
    out + &format!("{} = {}{restart}\n", setting.key, setting.toml(defaults))
}

/// An entry in comments, every key with an example.
fn entries<T>(table: &str, keys: &[EntryKey<T>]) -> String {
    let lines = keys.iter().map(|key| format!("# {} = {}\n{}", key.key, example(key.key), meaning(key.doc)));
    format!("# [{table}]\n{}", lines.collect::<String>())
}

fn meaning(doc: &[&str]) -> String {
    doc.iter().map(|line| format!("#    {line}\n")).collect()
}

fn example(key: &str) -> &'static str {
    match key {
        "host" => "\"db.example.org\"",
        "port" => "5432",
        "dbname" => "\"app_production\"",
        "user" => "\"app\"",
        "password" => "\"change-me\"",
        "auth_user" => "\"pgsluice\"",
        "auth_query" => "\"SELECT * FROM pgsluice.secret_of($1)\"",
        "auth_dbname" => "\"app\"",
        "pool_mode" => "\"transaction\"",
        "connect_query" => "\"SELECT 1\"",
        "client_encoding" => "\"UTF8\"",
        "datestyle" => "\"ISO\"",
        "timezone" => "\"UTC\"",
        "application_name" => "\"pgsluice\"",
        "server_lifetime" => "\"1h\"",
        "pin_policy" => "\"listen=error temp=warn\"",
        "audit" => "\"always\"",
        "pool_weight" => "3",
        "max_pool_waiting" => "500",
        key if key.ends_with("_timeout") => "\"30s\"",
        key if key.starts_with("min_") || key.starts_with("reserve_") => "2",
        _ => "20",
    }
}
