//! What a StartupMessage says: who the client is, and what it asked for.

use std::sync::Arc;

use pgsluice_wire::{PROTOCOL_3_0, PROTOCOL_3_2, StartupParams};

use crate::error::{Refusal, StartupFault};
use crate::settings::Settings;
use crate::startup_options;

/// Settings that PostgreSQL takes when a session starts, and never again: those of context `backend` and
/// `superuser-backend` in pg_settings, two that can be set later to no effect, and those that mean something else when
/// they are set later, or cannot be reset.
const AT_START_ONLY: [&str; 13] = [
    "ignore_system_indexes",
    "jit_debugging_support",
    "jit_profiling_support",
    "local_preload_libraries",
    "log_connections",
    "log_disconnections",
    "post_auth_delay",
    "seed",
    "session_authorization",
    "session_preload_libraries",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
];

/// Bytes of a name, as PostgreSQL keeps it (`NAMEDATALEN` in `src/include/pg_config_manual.h`, less the zero at its end).
const NAME_MAX: usize = 63;

/// Does the client want to talk to a WAL sender?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replication {
    /// No: an ordinary session.
    #[default]
    No,
    /// `replication=true`: physical replication, bound to no database.
    Physical,
    /// `replication=database`: logical replication.
    Logical,
}

/// Who the client says it is, and what it asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name, of at most 63 bytes, as PostgreSQL cuts it.
    pub user: String,
    /// Database name; the user's if it named none. Cut like that.
    pub database: String,
    /// The protocol version spoken with it: the one it asked for, or the newest that we speak.
    pub version: u32,
    /// Settings of the startup message that can be set in any session, `options` included; of a replication connection
    /// application_name alone.
    pub settings: Arc<Settings>,
    /// Settings that only a server's own start can take, by name.
    pub at_start: Settings,
    /// Whether, and how, it is a replication connection.
    pub replication: Replication,
    /// For a replication connection: all parameters besides user and database, as they came.
    pub verbatim: Vec<(String, String)>,
    /// What PostgreSQL would hold against the parameters once the client has proven who it is.
    pub fault: Option<StartupFault>,
}

impl Identity {
    /// Reads the parameters of a StartupMessage of this protocol version.
    ///
    /// # Errors
    /// What PostgreSQL refuses before it asks for a password (`ProcessStartupPacket` in
    /// `src/backend/tcop/backend_startup.c`).
    pub(crate) fn read(version: u32, params: &StartupParams<'_>) -> Result<Self, Refusal> {
        let mut identity = Self { version: version.clamp(PROTOCOL_3_0, PROTOCOL_3_2), ..Self::default() };
        let (mut options, mut named) = (String::new(), Vec::new());
        for (name, value) in params.iter() {
            let (name, value) = text(name, value)?;
            match name.as_str() {
                "user" => identity.user = value,
                "database" => identity.database = value,
                "replication" => {
                    identity.replication = replication(&value)?;
                    identity.verbatim.push((name, value));
                }
                "options" => options = value,
                _ if name.starts_with("_pq_.") => {}
                _ => named.push((name, value)),
            }
        }
        if identity.user.is_empty() {
            return Err(Refusal::NoUser);
        }
        if identity.database.is_empty() {
            identity.database.clone_from(&identity.user);
        }
        // Or what is configured for a name would not be so for all spellings of it.
        cut(&mut identity.user);
        cut(&mut identity.database);
        if identity.replication == Replication::No {
            identity.verbatim.clear();
            identity.set(&options, named);
        } else {
            identity.verbatim.extend(Some(("options".to_owned(), options)).filter(|(_, o)| !o.is_empty()));
            // For people to see; it is the server's own start that sets it.
            let name = named.iter().find(|(name, _)| name == "application_name");
            identity.settings = Arc::new(name.map_or(Settings::default(), |(n, v)| Settings::default().with(n, v)));
            identity.verbatim.extend(named);
        }
        Ok(identity)
    }

    /// Takes away the parameters of these names, whatever they ask for (`ignore_startup_parameters`).
    pub fn drop_parameters(&mut self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let dropped = |settings: &Settings| names.iter().fold(settings.clone(), |s, name| s.without(name));
        self.settings = Arc::new(dropped(&self.settings));
        self.at_start = dropped(&self.at_start);
        self.verbatim.retain(|(name, _)| !names.iter().any(|n| n.eq_ignore_ascii_case(name)));
    }

    /// Parameters of their own name come after those in `options`, and win (`process_startup_options` in
    /// `src/backend/utils/init/postinit.c`).
    fn set(&mut self, options: &str, named: Vec<(String, String)>) {
        let mut pairs = startup_options::read(options).unwrap_or_else(|fault| {
            self.fault = Some(fault);
            Vec::new()
        });
        pairs.extend(named);
        let mut settings = Settings::default();
        for (name, value) in pairs {
            if AT_START_ONLY.iter().any(|n| name.eq_ignore_ascii_case(n)) {
                self.at_start = self.at_start.with(&name, &value);
            } else {
                settings = settings.with(&name, &value);
            }
        }
        self.settings = Arc::new(settings);
    }
}

/// Name and value as text. PostgreSQL takes any bytes; an application_name it rids of what is not ASCII.
fn text(name: &[u8], value: &[u8]) -> Result<(String, String), StartupFault> {
    let bad = |what: &[u8]| {
        let what = String::from_utf8_lossy(what);
        StartupFault::Parameter(format!("startup parameter \"{what}\" is not UTF-8, as pgsluice needs it").into())
    };
    let key = std::str::from_utf8(name).map_err(|_| bad(name))?;
    let value = match std::str::from_utf8(value) {
        Ok(value) => value.to_owned(),
        Err(_) if key.eq_ignore_ascii_case("application_name") => {
            value.iter().map(|&b| if b.is_ascii() { char::from(b) } else { '?' }).collect()
        }
        Err(_) => return Err(bad(name)),
    };
    Ok((key.to_owned(), value))
}

/// A boolean as PostgreSQL reads one (`parse_bool` in `src/backend/utils/adt/bool.c`), or "database".
fn replication(value: &str) -> Result<Replication, StartupFault> {
    if value == "database" {
        return Ok(Replication::Logical);
    }
    let value_lower = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value_lower.len() >= least && word.starts_with(&value_lower);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Ok(Replication::Physical)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Ok(Replication::No)
    } else {
        Err(StartupFault::Replication(value.into()))
    }
}

/// The part of a name that PostgreSQL looks at. It cuts bytes; at the end of a character, that is what `CREATE` has made of the name.
fn cut(name: &mut String) {
    let end = (0..=NAME_MAX).rev().find(|&at| name.is_char_boundary(at));
    name.truncate(end.unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgsluice_wire::{FrontendWriter, Startup};

    fn read(params: &[(&str, &str)]) -> Result<Identity, Refusal> {
        let mut m = Vec::new();
        FrontendWriter(&mut m).startup(PROTOCOL_3_2 + 7, params.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        let Ok(Some((Startup::Message { version, params }, _))) = Startup::read(&m) else { panic!("not a startup") };
        Identity::read(version, &params)
    }

    #[test]
    fn parameters_of_their_own_name_win_over_options() {
        let params =
            [("DateStyle", "German"), ("user", "bob"), ("options", "-c datestyle=ISO -S 64"), ("timezone", "UTC")];
        let identity = read(&params).unwrap();
        assert_eq!((identity.user.as_str(), identity.database.as_str()), ("bob", "bob"));
        assert_eq!(identity.version, PROTOCOL_3_2);
        let settings: Vec<_> = identity.settings.iter().collect();
        assert_eq!(settings, [("datestyle", "German"), ("timezone", "UTC"), ("work_mem", "64")]);
        assert_eq!(read(&[("database", "x")]), Err(Refusal::NoUser));
    }

    #[test]
    fn names_are_cut_where_postgresql_cuts_them() {
        let of = |user: &str, database: &str| {
            let identity = read(&[("user", user), ("database", database)]).unwrap();
            (identity.user, identity.database)
        };
        let (whole, long) = ("u".repeat(63), "u".repeat(70));
        assert_eq!(of(&whole, &long), (whole.clone(), whole.clone()));
        assert_eq!(of(&long, ""), (whole.clone(), whole), "the user's, too");
        let accented = "é".repeat(40);
        assert_eq!(of("bob", &accented), ("bob".into(), "é".repeat(31)), "in front of the character that is cut");
    }

    #[test]
    fn what_only_a_start_can_set_is_kept_apart() {
        let identity = read(&[("user", "bob"), ("options", "-W 1 -c app.x=1"), ("Log_Connections", "on")]).unwrap();
        let at_start: Vec<_> = identity.at_start.iter().collect();
        assert_eq!(at_start, [("log_connections", "on"), ("post_auth_delay", "1")]);
        assert_eq!(identity.settings.iter().collect::<Vec<_>>(), [("app.x", "1")]);
    }

    #[test]
    fn a_bad_option_is_held_against_it_only_after_the_password() {
        let identity = read(&[("user", "bob"), ("options", "-Z")]).unwrap();
        assert_eq!(identity.fault, Some(StartupFault::Option("-Z".into())));
    }

    #[test]
    fn replication_is_a_boolean_or_a_word() {
        let of = |value| read(&[("user", "bob"), ("replication", value)]).map(|i| i.replication);
        for value in ["1", "t", "TRUE", "y", "yes", "on"] {
            assert_eq!(of(value), Ok(Replication::Physical), "{value}");
        }
        for value in ["0", "false", "n", "of", "OFF"] {
            assert_eq!(of(value), Ok(Replication::No), "{value}");
        }
        assert_eq!(of("database"), Ok(Replication::Logical));
        for value in ["", "o", "maybe", "Database", "truely"] {
            let refused = of(value);
            assert_eq!(refused, Err(StartupFault::Replication(value.into()).into()), "{value}");
        }
        let identity = read(&[("user", "bob"), ("replication", "on"), ("options", "-Z"), ("app.x", "1")]).unwrap();
        let verbatim: Vec<_> = identity.verbatim.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(verbatim, ["replication=on", "options=-Z", "app.x=1"], "all of it is PostgreSQL's to judge");
    }
}
