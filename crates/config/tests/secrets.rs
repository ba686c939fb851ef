//! Passwords that do not stand in the configuration: `file:` and `env:` in TOML, and what is said when they are of no use.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use pgsluice_config::{Config, Dialect, Files, Loaded, SECRET_BYTES_MAX, Secret, parse};

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
