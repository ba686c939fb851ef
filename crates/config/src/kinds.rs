//! The kinds of value a key can hold: how each is read from either dialect, shown in the console and written as TOML.
//! A kind knows nothing of keys, files or lines; it says what is wrong with a value and leaves the message to others.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use zeroize::Zeroize;

use crate::listen::{Listener, listener};
use crate::model::{AuthType, PoolMode};
use crate::secret::Secret;

/// Longest duration, in seconds (ten years), so that adding one to a clock never overflows.
pub const SECONDS_MAX: u32 = 315_360_000;

/// Largest count of connections or statements.
pub const COUNT_MAX: u32 = 1_000_000;

/// Longest name of a fleet, in bytes: that of a name in PostgreSQL (NAMEDATALEN, less its NUL).
pub const FLEET_BYTES_MAX: usize = 63;

/// Longest value quoted in a message, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// A value as a file holds it, before anyone knows what it should be. No `Debug`: it may be a password, and so it is
/// overwritten when it is dropped.
#[derive(Clone, PartialEq)]
pub(crate) enum Raw {
    /// Untyped text, as everything in an ini file is.
    Text(String),
    /// A TOML string.
    Quoted(String),
    /// A TOML integer and the base it was written in.
    Integer(i64, u32),
    Float(f64),
    Bool(bool),
    List(Vec<Raw>),
    /// A TOML table, in no order.
    Table(Vec<(String, Raw)>),
    /// A TOML value that no key takes: its name.
    Other(&'static str),
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wrong {
    Expected(&'static str),
    Range {
        min: u32,
        max: u32,
    },
    Choice(&'static [&'static str]),
    /// Part of the value is none of a fixed list: which part, for messages.
    Part {
        found: String,
        allowed: &'static [&'static str],
    },
    Unsupported(&'static str),
}

/// A kind of value. `Value` is what the program works with.
pub(crate) trait Kind {
    type Value;
    /// Whether the value must not appear in messages.
    const SECRET: bool = false;
    /// Whether an empty text means "not set" for an optional key.
    const EMPTY_IS_UNSET: bool = false;
    fn read(raw: &Raw) -> Result<Self::Value, Wrong>;
    /// As `SHOW CONFIG` and an ini file have it.
    fn show(value: &Self::Value) -> String;
    /// As a TOML file has it.
    fn toml(value: &Self::Value) -> String {
        toml_string(&Self::show(value))
    }
}

/// A whole number from `MIN` to `MAX`.
pub(crate) struct Number<const MIN: u32, const MAX: u32>;
pub(crate) type Count = Number<0, COUNT_MAX>;
pub(crate) type Percent = Number<1, 100>;
pub(crate) type Weight = Number<1, 1000>;
/// A TCP port from `MIN` up.
pub(crate) struct Port<const MIN: u32>;
/// File permission bits, written in octal.
pub(crate) struct Mode;
/// 0 or 1, in TOML also true or false.
pub(crate) struct Flag;
/// A duration: seconds, in TOML also text with a unit.
pub(crate) struct Seconds;
/// Free text.
pub(crate) struct Text;
/// The name of a fleet; empty means none.
pub(crate) struct Fleet;
/// Names separated by commas, in TOML also a list.
pub(crate) struct Names;
/// One address to listen on, with its port; empty means none.
pub(crate) struct Endpoint;
/// A file or directory; empty means none.
pub(crate) struct OptionalPath;
/// A directory for a Unix socket; empty means none.
pub(crate) struct SocketDir;
/// A host name, an address, or the directory of a Unix socket.
pub(crate) struct Host;
/// A key that may be left out.
pub(crate) struct Maybe<K>(std::marker::PhantomData<K>);

impl Drop for Raw {
    fn drop(&mut self) {
        if let Raw::Text(text) | Raw::Quoted(text) = self {
            text.zeroize();
        }
    }
}

impl Raw {
    /// For messages: what was found, in few words and never a whole novel.
    pub(crate) fn describe(&self, secret: bool) -> String {
        match self {
            Raw::List(_) => "a list".to_string(),
            Raw::Table(_) => "a table".to_string(),
            Raw::Other(name) => (*name).to_string(),
            _ if secret => "something else".to_string(),
            // A number of an ini file is text like everything there, but reads better without quotes.
            Raw::Text(text) if plain_number(text).is_some() => text.chars().take(QUOTED_CHARS_MAX).collect(),
            Raw::Text(text) | Raw::Quoted(text) => quoted(text),
            Raw::Integer(n, 8) => format!("0o{n:o}"),
            Raw::Integer(n, _) => n.to_string(),
            Raw::Float(x) => x.to_string(),
            Raw::Bool(b) => b.to_string(),
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Raw::Text(text) | Raw::Quoted(text) => Some(text),
            _ => None,
        }
    }
}

/// A text in quotes, shortened, with control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", short.escape_debug())
}

/// A TOML basic string.
pub(crate) fn toml_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

impl<const MIN: u32, const MAX: u32> Kind for Number<MIN, MAX> {
    type Value = u32;

    fn read(raw: &Raw) -> Result<u32, Wrong> {
        let number = match raw {
            Raw::Text(text) => text.parse().map_err(|_| Wrong::Expected("a whole number"))?,
            Raw::Integer(number, _) => *number,
            _ => return Err(Wrong::Expected("a whole number")),
        };
        let in_range = u32::try_from(number).ok().filter(|n| (MIN..=MAX).contains(n));
        in_range.ok_or(Wrong::Range { min: MIN, max: MAX })
    }

    fn show(value: &u32) -> String {
        value.to_string()
    }

    fn toml(value: &u32) -> String {
        value.to_string()
    }
}

impl<const MIN: u32> Kind for Port<MIN> {
    type Value = u16;

    fn read(raw: &Raw) -> Result<u16, Wrong> {
        let max = u32::from(u16::MAX);
        let number = Number::<0, COUNT_MAX>::read(raw).map_err(|wrong| match wrong {
            Wrong::Range { .. } => Wrong::Range { min: MIN, max },
            other => other,
        })?;
        u16::try_from(number).ok().filter(|p| u32::from(*p) >= MIN).ok_or(Wrong::Range { min: MIN, max })
    }

    fn show(value: &u16) -> String {
        value.to_string()
    }

    fn toml(value: &u16) -> String {
        value.to_string()
    }
}

impl Kind for Mode {
    type Value = u32;

    fn read(raw: &Raw) -> Result<u32, Wrong> {
        // A bare 770 is decimal to PgBouncer and to TOML and would open or close the wrong bits: octal must say so.
        let wrong = Wrong::Expected("an octal mode from 0 to 0777, such as 0770 (in TOML 0o770 or \"0770\")");
        let mode = match raw {
            Raw::Text(text) | Raw::Quoted(text) if text.starts_with('0') && !text.contains('+') => {
                u32::from_str_radix(text.trim_start_matches("0o"), 8).ok()
            }
            Raw::Integer(mode, 8) => u32::try_from(*mode).ok(),
            Raw::Integer(0, _) => Some(0),
            _ => None,
        };
        mode.filter(|m| *m <= 0o777).ok_or(wrong)
    }

    fn show(value: &u32) -> String {
        format!("{value:04o}")
    }

    fn toml(value: &u32) -> String {
        format!("0o{value:03o}")
    }
}

impl Kind for Flag {
    type Value = bool;

    fn read(raw: &Raw) -> Result<bool, Wrong> {
        match raw {
            Raw::Bool(b) => Ok(*b),
            Raw::Integer(n @ (0 | 1), _) => Ok(*n == 1),
            Raw::Text(text) if text == "0" || text == "1" => Ok(text == "1"),
            Raw::Text(_) => Err(Wrong::Expected("0 or 1")),
            _ => Err(Wrong::Expected("true or false")),
        }
    }

    fn show(value: &bool) -> String {
        u8::from(*value).to_string()
    }

    fn toml(value: &bool) -> String {
        value.to_string()
    }
}

impl Kind for Seconds {
    type Value = Duration;

    fn read(raw: &Raw) -> Result<Duration, Wrong> {
        let seconds = match raw {
            Raw::Text(text) => plain_number(text).ok_or(Wrong::Expected("seconds, such as 15 or 0.5"))?,
            Raw::Quoted(text) => with_unit(text).ok_or(DURATION_EXPECTED)?,
            Raw::Integer(n, _) => *n as f64,
            Raw::Float(x) => *x,
            _ => return Err(DURATION_EXPECTED),
        };
        let allowed = (0.0..=f64::from(SECONDS_MAX)).contains(&seconds);
        let duration = Duration::try_from_secs_f64(seconds).ok().filter(|_| allowed);
        duration.ok_or(Wrong::Range { min: 0, max: SECONDS_MAX })
    }

    fn show(value: &Duration) -> String {
        if value.subsec_nanos() == 0 {
            return value.as_secs().to_string();
        }
        format!("{}.{:09}", value.as_secs(), value.subsec_nanos()).trim_end_matches('0').to_string()
    }

    fn toml(value: &Duration) -> String {
        Self::show(value)
    }
}

const DURATION_EXPECTED: Wrong = Wrong::Expected("seconds, or text such as \"500ms\", \"15s\", \"2min\", \"1h\"");

/// A decimal number without exponent, "inf" or "nan", which `f64` would take.
fn plain_number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'));
    text.parse().ok().filter(|_| plain)
}

fn with_unit(text: &str) -> Option<f64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic())?;
    let per_second = match text.get(end..)? {
        "us" => 1e6,
        "ms" => 1e3,
        "s" => 1.0,
        "min" => 1.0 / 60.0,
        "h" => 1.0 / 3600.0,
        "d" => 1.0 / 86400.0,
        _ => return None,
    };
    Some(plain_number(text[..end].trim_end())? / per_second)
}

impl Kind for Text {
    type Value = String;
    const EMPTY_IS_UNSET: bool = true;

    fn read(raw: &Raw) -> Result<String, Wrong> {
        let text = raw.text().ok_or(Wrong::Expected("text"))?;
        // The protocol's strings end at the first NUL.
        if text.contains('\0') { Err(Wrong::Expected("text without NUL")) } else { Ok(text.to_string()) }
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

impl Kind for Fleet {
    type Value = String;

    fn read(raw: &Raw) -> Result<String, Wrong> {
        let fits = |name: &&str| name.len() <= FLEET_BYTES_MAX && !name.contains(char::is_control);
        let name = raw.text().filter(fits);
        name.map(str::to_string).ok_or(Wrong::Expected("a name of 63 bytes at most, without control characters"))
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

impl Kind for Names {
    type Value = Vec<String>;

    fn read(raw: &Raw) -> Result<Vec<String>, Wrong> {
        let wrong = Wrong::Expected("names separated by commas, in TOML also a list of strings");
        match raw {
            Raw::List(items) => {
                let names: Option<Vec<String>> = items.iter().map(|i| i.text().map(str::to_string)).collect();
                // A comma inside a name could not be shown or written back.
                names.filter(|all| all.iter().all(|n| is_name(n))).ok_or(wrong)
            }
            _ => {
                let text = raw.text().ok_or(wrong)?;
                Ok(text.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_string).collect())
            }
        }
    }

    fn show(value: &Vec<String>) -> String {
        value.join(", ")
    }

    fn toml(value: &Vec<String>) -> String {
        let items: Vec<String> = value.iter().map(|n| toml_string(n)).collect();
        format!("[{}]", items.join(", "))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(',') && name.trim() == name
}

impl Kind for Endpoint {
    type Value = Option<Listener>;

    fn read(raw: &Raw) -> Result<Option<Listener>, Wrong> {
        let wrong = Wrong::Expected("an address with its port, such as 127.0.0.1:9127 or [::1]:9127");
        match raw.text() {
            Some("") => Ok(None),
            // Without a port of its own it would have this one.
            Some(text) => listener(text, 0).ok().filter(|found| found.port > 0).map(Some).ok_or(wrong),
            None => Err(wrong),
        }
    }

    fn show(value: &Option<Listener>) -> String {
        value.as_ref().map(Listener::to_string).unwrap_or_default()
    }
}

impl Kind for OptionalPath {
    type Value = Option<PathBuf>;

    fn read(raw: &Raw) -> Result<Option<PathBuf>, Wrong> {
        let path = Text::read(raw).map_err(|_| Wrong::Expected("a path"))?;
        Ok(Some(path).filter(|p| !p.is_empty()).map(PathBuf::from))
    }

    fn show(value: &Option<PathBuf>) -> String {
        value.as_ref().map(|p| p.display().to_string()).unwrap_or_default()
    }
}

const NO_ABSTRACT: Wrong = Wrong::Unsupported("abstract Unix sockets (@…) are not supported; name a directory");

impl Kind for SocketDir {
    type Value = Option<PathBuf>;

    fn read(raw: &Raw) -> Result<Option<PathBuf>, Wrong> {
        if raw.text().is_some_and(|t| t.starts_with('@')) { Err(NO_ABSTRACT) } else { OptionalPath::read(raw) }
    }

    fn show(value: &Option<PathBuf>) -> String {
        OptionalPath::show(value)
    }
}

impl Kind for Host {
    type Value = String;
    const EMPTY_IS_UNSET: bool = true;

    fn read(raw: &Raw) -> Result<String, Wrong> {
        let host = Text::read(raw)?;
        match host.chars().next() {
            Some('@') => Err(NO_ABSTRACT),
            _ if host.contains(',') => Err(Wrong::Unsupported("several hosts are not supported; name one")),
            None => Err(Wrong::Expected("a host name, an address, or the directory of a Unix socket")),
            Some(_) => Ok(host),
        }
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

impl Kind for Secret {
    type Value = Secret;
    const SECRET: bool = true;
    const EMPTY_IS_UNSET: bool = true;

    fn read(raw: &Raw) -> Result<Secret, Wrong> {
        Text::read(raw).map(Secret::new)
    }

    fn show(value: &Secret) -> String {
        value.to_string()
    }
}

impl Kind for PoolMode {
    type Value = PoolMode;

    fn read(raw: &Raw) -> Result<PoolMode, Wrong> {
        let text = raw.text().ok_or(Wrong::Choice(PoolMode::NAMES))?;
        PoolMode::from_str(text).map_err(|_| Wrong::Choice(PoolMode::NAMES))
    }

    fn show(value: &PoolMode) -> String {
        value.as_str().to_string()
    }
}

impl Kind for AuthType {
    type Value = AuthType;

    fn read(raw: &Raw) -> Result<AuthType, Wrong> {
        let text = raw.text().ok_or(Wrong::Choice(AuthType::NAMES))?;
        match text.to_ascii_lowercase().as_str() {
            "ldap" | "pam" => Err(Wrong::Unsupported(
                "this way of authenticating is not supported, and a weaker one will not be used in its place; \
                 allowed: any, trust, plain, md5, scram-sha-256, cert, hba",
            )),
            "peer" | "reject" => Err(Wrong::Unsupported(
                "peer and reject are methods of rules only; set auth_type to hba, and auth_hba_file to a file with the rule",
            )),
            _ => AuthType::from_str(text).map_err(|_| Wrong::Choice(AuthType::NAMES)),
        }
    }

    fn show(value: &AuthType) -> String {
        value.as_str().to_string()
    }
}

impl<K: Kind> Kind for Maybe<K> {
    type Value = Option<K::Value>;
    const SECRET: bool = K::SECRET;

    fn read(raw: &Raw) -> Result<Self::Value, Wrong> {
        if K::EMPTY_IS_UNSET && raw.text() == Some("") { Ok(None) } else { K::read(raw).map(Some) }
    }

    fn show(value: &Self::Value) -> String {
        value.as_ref().map(K::show).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(raw: Raw) -> Option<Duration> {
        Seconds::read(&raw).ok()
    }

    #[test]
    fn durations() {
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(seconds(Raw::Text("0.5".into())), ms(500));
        assert_eq!(seconds(Raw::Text("15".into())), ms(15_000));
        for bad in ["5s", "-1", "", "nan", "1e3", "inf", "999999999999"] {
            assert_eq!(seconds(Raw::Text(bad.into())), None, "{bad}");
        }
        for (good, value) in [("500ms", 500), ("15s", 15_000), ("2min", 120_000), ("1h", 3_600_000), ("1.5 s", 1500)] {
            assert_eq!(seconds(Raw::Quoted(good.into())), ms(value), "{good}");
        }
        for bad in ["15", "1w", "s", "-1s", "1 m", "1 second"] {
            assert_eq!(seconds(Raw::Quoted(bad.into())), None, "{bad}");
        }
        assert_eq!(seconds(Raw::Integer(3, 10)), ms(3000));
        assert_eq!(seconds(Raw::Float(f64::NAN)), None);
        assert_eq!(Seconds::show(&Duration::from_millis(1050)), "1.05");
    }

    #[test]
    fn modes_are_octal_or_refused() {
        for (raw, mode) in [
            (Raw::Text("0770".into()), Some(0o770)),
            (Raw::Text("770".into()), None),
            (Raw::Text("511".into()), None),
            (Raw::Text("01777".into()), None),
            (Raw::Integer(0o700, 8), Some(0o700)),
            (Raw::Integer(700, 10), None),
            (Raw::Quoted("0o750".into()), Some(0o750)),
            (Raw::Quoted("0".into()), Some(0)),
        ] {
            assert_eq!(Mode::read(&raw).ok(), mode, "{}", raw.describe(false));
        }
    }
}
