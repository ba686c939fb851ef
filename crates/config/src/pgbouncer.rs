//! PgBouncer's keys that pgsluice does not have yet, and what becomes of a file that sets them: most are dropped with a
//! warning; one that asks for protection we could not give is refused, so that a file never yields less than it asks for.

/// What becomes of a key of PgBouncer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The value says what pgsluice does anyway.
    Agreed,
    /// Dropped with a warning.
    Dropped,
    /// Refused: what to do instead.
    Refused(&'static str),
}

const NO_EXEC_BAN: &str = "refusing simple queries is not supported, and this file asks for it; remove this key";
const NO_SETUID: &str = "pgsluice does not change its user; start it as that user and remove this key";

/// What becomes of a key of `[pgbouncer]`; `None` if PgBouncer does not know it either.
pub(crate) fn setting(key: &str, value: &str) -> Option<Verdict> {
    let value = value.to_ascii_lowercase();
    Some(match key {
        "user" => unless_empty(&value, NO_SETUID),
        "disable_pqexec" => unless_empty(&value, NO_EXEC_BAN),
        _ if !DROPPED.contains(&key) => return None,
        _ if is_off(&value) => Verdict::Agreed,
        _ => Verdict::Dropped,
    })
}

/// What becomes of a key of a `[databases]` entry.
pub(crate) fn database_key(key: &str, value: &str) -> Option<Verdict> {
    match key {
        "load_balance_hosts" | "max_db_client_connections" => Some(dropped_unless_off(value)),
        _ => None,
    }
}

/// What becomes of a key of a `[users]` entry.
pub(crate) fn user_key(key: &str, value: &str) -> Option<Verdict> {
    (key == "max_user_client_connections").then(|| dropped_unless_off(value))
}

/// Every key of `[pgbouncer]` that pgsluice does not have, for suggestions.
pub(crate) fn keys() -> impl Iterator<Item = &'static str> {
    REFUSED.iter().chain(DROPPED).copied()
}

/// Keys whose value decides whether the file is refused.
const REFUSED: &[&str] = &["disable_pqexec", "user"];

/// Every key of `[pgbouncer]` that is dropped with a warning.
const DROPPED: &[&str] = &[
    "application_name_add_host",
    "auth_ldap_options",
    "autodb_idle_timeout",
    "client_tls13_ciphers",
    "client_tls_ciphers",
    "client_tls_dheparams",
    "client_tls_ecdhcurve",
    "conffile",
    "dns_max_ttl",
    "dns_nxdomain_ttl",
    "dns_zone_check_period",
    "job_name",
    "login_notify_message",
    "max_db_client_connections",
    "max_packet_size",
    "max_user_client_connections",
    "peer_id",
    "pkt_buf",
    "pool_idle_timeout",
    "resolv_conf",
    "sbuf_loopcnt",
    "server_check_delay",
    "server_check_query",
    "server_fast_close",
    "server_reset_query_always",
    "server_tls13_ciphers",
    "server_tls_ciphers",
    "service_name",
    "so_reuseport",
    "suspend_timeout",
    "syslog",
    "syslog_facility",
    "syslog_ident",
    "tcp_defer_accept",
    "tcp_keepcnt",
    "tcp_keepidle",
    "tcp_keepintvl",
    "tcp_socket_buffer",
    "tcp_user_timeout",
    "track_extra_parameters",
    "unix_socket_group",
];

fn is_off(value: &str) -> bool {
    matches!(value, "" | "0")
}

fn unless_empty(value: &str, instead: &'static str) -> Verdict {
    if is_off(value) { Verdict::Agreed } else { Verdict::Refused(instead) }
}

fn dropped_unless_off(value: &str) -> Verdict {
    if is_off(value) { Verdict::Agreed } else { Verdict::Dropped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_asked_for_is_refused() {
        assert!(matches!(setting("disable_pqexec", "1"), Some(Verdict::Refused(_))));
        assert!(matches!(setting("user", "postgres"), Some(Verdict::Refused(_))));
        assert_eq!(setting("so_reuseport", "1"), Some(Verdict::Dropped));
        assert_eq!(setting("so_reuseport", "0"), Some(Verdict::Agreed));
        assert_eq!(setting("so_reuse_port", "0"), None);
    }

    #[test]
    fn the_lists_are_of_keys_that_are_not_ours_and_have_a_verdict() {
        for key in keys() {
            assert!(crate::settings::setting(key).is_none(), "{key}");
            assert_eq!(matches!(setting(key, "require"), Some(Verdict::Refused(_))), REFUSED.contains(&key), "{key}");
        }
    }
}
