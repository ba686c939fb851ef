//! Passwords for servers that do not stand in the configuration: in files, in the environment, in a password file. The
//! server asks for SCRAM-SHA-256, so that nobody gets in without.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pgsluice_tests::process::Directory;
use pgsluice_tests::{APP, Login, Pooler, Postgres};

/// A private directory with a file of this mode, and the file's path.
fn with_file(name: &str, text: &str, mode: u32) -> (Directory, String) {
    let directory = Directory::fresh("secrets");
    let path = directory.write(name, text);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("it is ours");
    let path = path.display().to_string();
    (directory, path)
}

/// A TOML file with the database `postgres`, its lines `database`, and settings. Clients are asked for no password.
fn toml(settings: &str, database: &str) -> String {
    let port = Postgres::shared().port();
    format!(
        "listen_port = {{port}}\nauth_type = \"trust\"\nadmin_users = [\"app\"]\nquery_wait_timeout = 3\n{settings}\n\
         [databases.postgres]\nport = {port}\n{database}\n[users.app]\n"
    )
}

fn start(environment: &[(&str, &str)], settings: &str, database: &str) -> Pooler {
    // Nobody's own files and variables are to be in the way.
    let clean = [("HOME", "/nonexistent"), ("PGPASSWORD", ""), ("PGPASSFILE", "")];
    let environment: Vec<_> = clean.iter().chain(environment).copied().collect();
    Pooler::file_in(&environment, "pgsluice.toml", &toml(settings, database), APP)
}

/// Who PostgreSQL says a client is, or why there is none.
fn role(pooler: &Pooler) -> Result<String, String> {
    let mut client = pooler.try_connect(APP, "postgres").map_err(|e| format!("{e:?}"))?;
    Ok(client.value("SELECT current_user"))
}

fn is_in(pooler: &Pooler) -> bool {
    role(pooler).is_ok_and(|role| role == "app")
}

/// What it is, the environment, settings, and lines of the database.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);

const FORCED: &str = "user = \"app\"";

#[test]
fn servers_are_opened_with_passwords_that_stand_elsewhere() {
    let port = Postgres::shared().port();
    let line = format!("# ours\n127.0.0.1:{port}:postgres:other:wrong\n127.0.0.1:{port}:*:app:{}\n", APP.password);
    let (_secret, secret) = with_file("password", &format!("{}\n", APP.password), 0o400);
    let (home, passfile) = with_file(".pgpass", &line, 0o600);
    let home = home.path().display().to_string();
    let from = |password: &str| format!("{FORCED}\npassword = \"{password}\"");
    let named = format!("passfile = \"{passfile}\"");
    let cases: [Case<'_>; 6] = [
        ("file:", &[], "", &from(&format!("file:{secret}"))),
        ("env:", &[("APP_PASSWORD", APP.password)], "", &from("env:APP_PASSWORD")),
        ("PGPASSWORD", &[("PGPASSWORD", APP.password)], "", FORCED),
        ("~/.pgpass", &[("HOME", &home)], "", FORCED),
        ("PGPASSFILE", &[("PGPASSFILE", &passfile)], "", FORCED),
        ("passfile", &[("PGPASSFILE", "/nonexistent")], &named, FORCED),
    ];
    for (what, environment, settings, database) in cases {
        let pooler = start(environment, settings, database);
        assert_eq!(role(&pooler).as_deref(), Ok("app"), "{what}:\n{}", pooler.log());
        assert!(!pooler.log().contains(APP.password), "{what}:\n{}", pooler.log());
    }
    let pooler = start(&[], "", FORCED);
    assert!(!is_in(&pooler), "the server asks for one");
}

#[test]
fn a_password_file_that_others_can_read_is_not_used() {
    let (_directory, passfile) = with_file("pass", &format!("*:*:*:*:{}\n", APP.password), 0o644);
    let said = format!("PGPASSFILE: {passfile} is not used: group or others have rights to it");
    let pooler = start(&[("PGPASSFILE", &passfile)], "", FORCED);
    assert!(pooler.logs(&said), "{}", pooler.log());
    assert!(!is_in(&pooler), "{}", pooler.log());
    assert!(!pooler.log().contains(APP.password), "{}", pooler.log());
}

#[test]
fn a_client_under_its_own_name_does_not_get_the_operators_password() {
    let pooler = start(&[("PGPASSWORD", APP.password)], "", "");
    let refused = role(&pooler).expect_err("it is trusted here, not there");
    assert!(refused.contains("no password is configured"), "{refused}");
}

#[test]
fn files_are_read_again_by_a_reload() {
    let line = |password: &str| format!("*:*:*:*:{password}\n");
    let (_secret, secret) = with_file("password", "wrong", 0o600);
    let (_passfile, passfile) = with_file("pass", &line("wrong"), 0o600);
    for (file, text, settings, database) in [
        (&secret, APP.password.to_owned(), String::new(), format!("{FORCED}\npassword = \"file:{secret}\"")),
        (&passfile, line(APP.password), format!("passfile = \"{passfile}\""), FORCED.to_owned()),
    ] {
        let pooler = start(&[], &settings, &database);
        assert!(!is_in(&pooler), "{file}");
        std::fs::write(Path::new(file), text).expect("it is ours");
        pooler.show("RELOAD");
        assert_eq!(role(&pooler).as_deref(), Ok("app"), "{file}:\n{}", pooler.log());
    }
}

#[test]
fn a_url_without_a_password_takes_that_of_the_environment_and_clients_need_it() {
    let url = format!("postgres://app@127.0.0.1:{}/postgres", Postgres::shared().port());
    let (_directory, passfile) = with_file("pass", &format!("*:*:*:app:{}\n", APP.password), 0o600);
    let environments: [(&str, &[(&str, &str)]); 2] = [
        ("PGPASSWORD", &[("PGPASSWORD", APP.password)]),
        ("password file", &[("PGPASSFILE", &passfile), ("PGPASSWORD", "")]),
    ];
    for (from, environment) in environments {
        let pooler = Pooler::url_in(environment, &url, APP);
        assert_eq!(role(&pooler).as_deref(), Ok("app"), "{from}:\n{}", pooler.log());
        let wrong = pooler.try_connect(Login { user: "app", password: "wrong" }, "postgres");
        assert_eq!(wrong.map(drop).unwrap_err().sqlstate(), "28P01", "{from}");
        assert!(pooler.logs(&format!("{from}: the password comes from here")), "{}", pooler.log());
    }
}
