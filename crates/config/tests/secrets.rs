//! Passwords that do not stand in the configuration: `file:` and `env:` in TOML, PGPASSWORD and the password file, and what is
//! said when they are of no use.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use pgsluice_config::{
    AuthType, Config, Dialect, Files, Loaded, SECRET_BYTES_MAX, Secret, config_from_url, parse, parse_url,
};

/// Files with their modes, and environment variables.
#[derive(Default)]
struct World {
    files: BTreeMap<PathBuf, (Vec<u8>, u32)>,
    variables: BTreeMap<String, OsString>,
}

impl World {
    fn file(mut self, path: &str, text: impl AsRef<[u8]>, mode: u32) -> Self {
        self.files.insert(path.into(), (text.as_ref().to_vec(), mode));
        self
    }

    fn variable(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.variables.insert(name.into(), OsString::from_vec(value.as_ref().to_vec()));
        self
    }
}

impl Files for World {
    fn read(&self, path: &Path) -> io::Result<String> {
        let (text, mode) = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        if mode & 0o400 == 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        String::from_utf8(text.clone()).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn mode(&self, path: &Path) -> Option<u32> {
        self.files.get(path).map(|(_, mode)| *mode)
    }
}

fn load(dialect: Dialect, text: &str, world: &World) -> Loaded {
    let name = if dialect == Dialect::Toml { "/c/p.toml" } else { "/c/p.ini" };
    parse(dialect, text, Path::new(name), world)
}

fn toml(text: &str, world: &World) -> (Config, Vec<String>) {
    let (config, warnings) = load(Dialect::Toml, text, world).unwrap_or_else(|e| panic!("{e}"));
    (config, warnings.iter().map(ToString::to_string).collect())
}

/// The password that a database's `password = "…"` stands for.
fn password(written: &str, world: &World) -> Result<Option<String>, String> {
    let text = format!("[users.u]\n[databases.app]\nuser = \"u\"\npassword = \"{written}\"\n");
    let (config, _) = load(Dialect::Toml, &text, world).map_err(|e| e.to_string())?;
    Ok(config.databases["app"].password.as_ref().map(|p| p.expose().to_owned()))
}

#[test]
fn a_password_may_stand_in_a_file_or_a_variable() {
    let world = World::default()
        .file("/run/secrets/app", "from a file\n", 0o100_400)
        .file("/c/beside", "beside\r\n", 0o100_400)
        .file("/two", "two lines\n\n", 0o100_400)
        .file("/blank", " env:APP ", 0o100_400)
        .variable("APP", "from a variable\n");
    for (written, found) in [
        ("file:/run/secrets/app", "from a file"),
        ("file:beside", "beside"),
        ("file:/two", "two lines\n"),
        ("file:/blank", " env:APP "),
        ("env:APP", "from a variable\n"),
        ("plain:file:/two", "file:/two"),
        ("plain:plain:", "plain:"),
        ("files:x", "files:x"),
        ("ENV:x", "ENV:x"),
        (" env:x", " env:x"),
    ] {
        assert_eq!(password(written, &world), Ok(Some(found.to_owned())), "{written}");
    }
    assert_eq!(password("plain:", &world), Ok(None), "as an empty text is");
}

#[test]
fn users_have_them_too_and_an_own_secret_may_be_any_form() {
    let md5 = "md55f4dcc3b5aa765d61d8327deb882cf99";
    let world = World::default().file("/md5", format!("{md5}\n"), 0o100_440);
    let text = "[databases.a]\n[users.alice]\npassword = \"file:/md5\"\n";
    let (config, warnings) = toml(text, &world);
    assert_eq!(config.users["alice"].password, Some(Secret::new(md5)));
    assert_eq!(warnings.len(), 1, "that it is MD5: {warnings:?}");
}

#[test]
fn the_words_mean_nothing_in_pgbouncers_files() {
    let world = World::default().file("/list", "\"alice\" \"file:/x\"\n\"bob\" \"env:X\"\n", 0o100_400);
    let text = "[databases]\na = host=h user=u password=env:X\n[pgbouncer]\nlisten_addr=*\nauth_file=/list\n";
    let (config, _) = load(Dialect::Ini, text, &world).expect("valid");
    assert_eq!(config.databases["a"].password, Some(Secret::new("env:X")));
    assert_eq!(config.users["alice"].password, Some(Secret::new("file:/x")));
    let text = "auth_file = \"/list\"\n[databases.a]\n";
    assert_eq!(toml(text, &world).0.users["bob"].password, Some(Secret::new("env:X")));
}

#[test]
fn what_is_of_no_use_is_said_with_its_place_and_never_shown() {
    let hidden = "hunter2";
    let world = World::default()
        .file("/empty", "\n", 0o100_400)
        .file("/shut", hidden, 0o100_000)
        .file("/latin1", b"hunter2\xff", 0o100_400)
        .file("/nul", "hunter2\0\n", 0o100_400)
        .file("/long", hidden.repeat(SECRET_BYTES_MAX), 0o100_400)
        .variable("EMPTY", "")
        .variable("LATIN1", b"hunter2\xff")
        .variable("LONG", hidden.repeat(SECRET_BYTES_MAX));
    for (written, message) in [
        (
            "file:/none",
            "/none cannot be read: entity not found; correct the path or its permissions, or write plain: before a \
             password that begins with file:",
        ),
        (
            "file:/shut",
            "/shut cannot be read: permission denied; correct the path or its permissions, or write plain: before a \
             password that begins with file:",
        ),
        ("file:/empty", "/empty is empty; write the password into it"),
        ("file:/latin1", "/latin1 is not UTF-8; a password has to be"),
        ("file:/nul", "/nul contains a NUL, which no password can; write the password alone into it"),
        ("file:/long", "/long is longer than a password may be, 65531 bytes; write the password alone into it"),
        (
            "env:NONE",
            "environment variable NONE is not set; set it for pgsluice, or write plain: before a password that begins \
             with env:",
        ),
        ("env:EMPTY", "environment variable EMPTY is empty; write the password into it"),
        ("env:LATIN1", "environment variable LATIN1 is not UTF-8; a password has to be"),
        (
            "env:LONG",
            "environment variable LONG is longer than a password may be, 65531 bytes; write the password alone into it",
        ),
        // It is a password rather than a name, then, and not to be shown.
        (
            "env:hunter2!",
            "expects the name of an environment variable after env:, or plain: before a password that begins so, found \
             something else",
        ),
        (
            "file:",
            "expects the path of a file after file:, or plain: before a password that begins so, found something else",
        ),
        (
            "env:",
            "expects the name of an environment variable after env:, or plain: before a password that begins so, found \
             something else",
        ),
    ] {
        let found = password(written, &world).expect_err(written);
        assert_eq!(found, format!("/c/p.toml:4: databases.app.password: {message}"), "{written}");
        assert!(!found.contains(hidden), "{written}");
    }
}

#[test]
fn a_secrets_file_that_everybody_can_read_is_told_of() {
    let text = "[databases.a]\n[users.alice]\npassword = \"file:s\"\n";
    for (mode, told) in [(0o100_644, true), (0o100_444, true), (0o100_640, false), (0o100_600, false)] {
        let world = World::default().file("/c/s", "pw", mode);
        let (config, warnings) = toml(text, &world);
        assert_eq!(config.users["alice"].password, Some(Secret::new("pw")));
        let expected = "/c/p.toml:3: users.alice.password: everybody on this machine can read /c/s; take that right away, \
                        as with chmod o-r";
        assert_eq!(warnings, Vec::from_iter(told.then(|| expected.to_string())), "{mode:o}");
    }
}

const SERVER: &str = "[databases.app]\nhost = \"db\"\nuser = \"app\"\n[users.app]\n";
const OPEN: &str = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy";

fn opens(config: &Config, database: &str, user: &str) -> Option<String> {
    config.server_password(database, user).map(|s| s.expose().to_owned())
}

#[test]
fn what_is_configured_comes_first_then_the_variable_then_the_file() {
    let file =
        World::default().file("/home/x/.pgpass", "db:5432:app:app:file\n", 0o100_600).variable("HOME", "/home/x");
    let both = World::default().file("/home/x/.pgpass", "*:*:*:*:file\n", 0o100_600).variable("HOME", "/home/x");
    let both = both.variable("PGPASSWORD", "variable");
    let none = World::default();
    let own = SERVER.replace("user = \"app\"", "user = \"app\"\npassword = \"own\"");
    let listed = format!("{SERVER}password = \"listed\"\n");
    let md5 = format!("{SERVER}password = \"md55f4dcc3b5aa765d61d8327deb882cf99\"\n");
    // Such a secret opens no server, and so is no answer if there is another.
    let scram = format!("{SERVER}password = \"{OPEN}\"\n");
    for (text, world, password) in [
        (SERVER, &none, None),
        (SERVER, &file, Some("file")),
        (SERVER, &both, Some("variable")),
        (&own, &both, Some("own")),
        (&listed, &both, Some("listed")),
        (&md5, &both, Some("md55f4dcc3b5aa765d61d8327deb882cf99")),
        (&scram, &both, Some("variable")),
        (&scram, &file, Some("file")),
        (&scram, &none, Some(OPEN)),
    ] {
        assert_eq!(opens(&toml(text, world).0, "app", "app").as_deref(), password, "{text}");
    }
}

#[test]
fn only_a_forced_users_servers_are_opened_with_the_operators_passwords() {
    let world = World::default().variable("PGPASSWORD", "variable").variable("PGPASSFILE", "/f");
    let world = world.file("/f", "*:*:*:*:file\n", 0o100_600);
    let text = "auth_type = \"trust\"\n[databases.own]\n[databases.forced]\nuser = \"app\"\n[users.app]\n[users.bob]\n\
                password = \"bobs\"\n";
    let (config, _) = toml(text, &world);
    let found = |database, user| opens(&config, database, user);
    assert_eq!(found("forced", "app").as_deref(), Some("variable"));
    assert_eq!((found("own", "app"), found("forced", "bob").as_deref()), (None, Some("bobs")));
    assert_eq!((found("own", "stranger"), found("nowhere", "app")), (None, None));
}

#[test]
fn each_server_has_its_own_line() {
    let lines = "db:5432:a:app:one\ndb:5433:b\\:c:app:two\nlocalhost:5432:*:app:three\ndb:5432:postgres:app:four\n";
    let world = World::default().file("/c/pass", lines, 0o100_600);
    let text = "passfile = \"pass\"\n[databases.x]\nhost = \"db\"\ndbname = \"a\"\nuser = \"app\"\n\
                [databases.\"b:c\"]\nhost = \"db\"\nport = 5433\nuser = \"app\"\n\
                [databases.socket]\nhost = \"/tmp\"\nuser = \"app\"\n\
                [databases.\"*\"]\nhost = \"db\"\nuser = \"app\"\n[users.app]\n";
    let (config, warnings) = toml(text, &world);
    assert_eq!(warnings, [""; 0]);
    let found = |database| opens(&config, database, "app");
    for (database, password) in
        [("x", Some("one")), ("b:c", Some("two")), ("socket", Some("three")), ("*", Some("four")), ("y", None)]
    {
        assert_eq!(found(database).as_deref(), password, "{database}");
    }
    assert_eq!(found("a").as_deref(), Some("one"), "served by the fallback under its own name");
    assert!(!format!("{config:?}").contains("three"));
}

#[test]
fn a_password_file_that_is_not_private_is_left_aside() {
    let line = "*:*:*:*:hunter2\n";
    let found = |world: &World, text: &str| {
        let (config, warnings) = toml(text, world);
        (opens(&config, "app", "app"), warnings)
    };
    let is_not_used = |key: &str, path: &str, why: &str| (None, vec![format!("{key}: {path} is not used: {why}")]);
    let exposed = "group or others have rights to it; take them away, as with chmod 0600";
    for mode in [0o100_640, 0o100_604, 0o100_620, 0o100_610] {
        let world = World::default().file("/h/.pgpass", line, mode).variable("HOME", "/h").variable("PGPASSFILE", "");
        assert_eq!(found(&world, SERVER), is_not_used("~/.pgpass", "/h/.pgpass", exposed), "{mode:o}");
    }
    for (name, mode, text, why) in [
        ("/d", 0o040_700, line, "it is not a regular file"),
        ("/shut", 0o100_000, line, "it cannot be read: permission denied"),
    ] {
        let world = World::default().file(name, text, mode).variable("PGPASSFILE", name);
        assert_eq!(found(&world, SERVER), is_not_used("PGPASSFILE", name, why));
    }
    let world = World::default().file("/c/pass", line, 0o100_644);
    let named = format!("passfile = \"pass\"\n{SERVER}");
    assert_eq!(found(&world, &named), is_not_used("/c/p.toml:1: passfile", "/c/pass", exposed));
    let world = World::default().variable("PGPASSFILE", "/none").variable("HOME", "/none");
    assert_eq!(found(&world, SERVER), (None, Vec::new()), "nobody has asked for it");
    let error = load(Dialect::Toml, &named, &world).expect_err("it was asked for").to_string();
    assert_eq!(error, "/c/p.toml:1: passfile /c/pass: cannot be read: entity not found");
    let world = World::default().variable("PGPASSWORD", b"hunter2\xff");
    let useless = "PGPASSWORD: this environment variable is not UTF-8; a password has to be";
    assert_eq!(found(&world, SERVER), (None, vec![useless.to_string()]));
}

#[test]
fn nobody_looks_where_nothing_is_needed() {
    let world = World::default().file("/h/.pgpass", "", 0o100_644).variable("HOME", "/h");
    for text in ["[databases.a]\n[users.a]\n", &format!("{SERVER}password = \"listed\"\n")] {
        assert_eq!(toml(text, &world).1, [""; 0], "{text}");
    }
}

#[test]
fn a_url_without_a_password_finds_it_and_asks_clients_for_it() {
    let world = World::default().file("/f", "db:5432:shop:app:file\n", 0o100_600).variable("PGPASSFILE", "/f");
    let start = |text: &str, world: &World| {
        let mut url = parse_url(text).expect("valid");
        let warnings: Vec<_> = url.find_password(world).iter().map(ToString::to_string).collect();
        (config_from_url(&url, &["0.0.0.0:6432".to_string()]), warnings)
    };
    let said = |from| vec![format!("{from}: the password comes from here; clients need it to log in")];
    let (config, warnings) = start("postgres://app@db/shop", &world);
    assert_eq!(warnings, said("password file"));
    let config = config.expect("reachable from elsewhere, as there is a password");
    assert_eq!(config.settings.auth_type, AuthType::ScramSha256);
    for database in ["shop", "other"] {
        assert_eq!(opens(&config, database, "app").as_deref(), Some("file"));
    }
    assert_eq!(config.users["app"].password, Some(Secret::new("file")));
    let (config, warnings) = start("postgres://app:own@db/shop", &world);
    assert_eq!((opens(&config.unwrap(), "shop", "app").as_deref(), warnings.len()), (Some("own"), 0));
    let (config, warnings) = start("postgres://bob@db/shop", &world);
    assert!(config.is_err() && warnings.is_empty(), "no line is for him");
    let world = world.variable("PGPASSWORD", "variable");
    let (config, warnings) = start("postgres://bob@db/shop", &world);
    assert_eq!((opens(&config.unwrap(), "shop", "bob").as_deref(), warnings), (Some("variable"), said("PGPASSWORD")));
}
