//! The startup parameter `options`: command-line arguments for the backend, all of which set something.
//!
//! Source: `pg_split_opts` in `src/backend/utils/init/postinit.c`; `process_postgres_switches` and the functions it calls
//! in `src/backend/tcop/postgres.c`.

use crate::error::StartupFault;

/// Switches that set one setting to their argument.
const WITH_ARGUMENT: [(u8, &str); 7] = [
    (b'B', "shared_buffers"),
    (b'N', "max_connections"),
    (b'S', "work_mem"),
    (b'W', "post_auth_delay"),
    (b'h', "listen_addresses"),
    (b'k', "unix_socket_directories"),
    (b'p', "port"),
];
/// Switches that set one setting to a fixed value.
const WITHOUT_ARGUMENT: [(u8, &str, &str); 7] = [
    (b'F', "fsync", "false"),
    (b'O', "allow_system_table_mods", "true"),
    (b'P', "ignore_system_indexes", "true"),
    (b'e', "datestyle", "euro"),
    (b'i', "listen_addresses", "*"),
    (b'l', "ssl", "true"),
    (b's', "log_statement_stats", "true"),
];
/// Switches with an argument, and without one, that PostgreSQL ignores when they come from a client.
const IGNORED: (&[u8], &[u8]) = (b"CDrv", b"ETbjn");
/// What `-f` switches off, by its argument.
const PLANS: [(&str, &str); 8] = [
    ("b", "enable_bitmapscan"),
    ("h", "enable_hashjoin"),
    ("i", "enable_indexscan"),
    ("m", "enable_mergejoin"),
    ("n", "enable_nestloop"),
    ("o", "enable_indexonlyscan"),
    ("s", "enable_seqscan"),
    ("t", "enable_tidscan"),
];
/// What `-t` switches on, by the first two characters of its argument.
const STATS: [(&str, &str); 3] =
    [("pa", "log_parser_stats"), ("pl", "log_planner_stats"), ("ex", "log_executor_stats")];

type Pair = (String, String);

/// Names and values of the settings in an `options` parameter, in order.
///
/// # Errors
/// What PostgreSQL would say of the first argument that it does not take.
pub(crate) fn read(options: &str) -> Result<Vec<Pair>, StartupFault> {
    let mut settings = Vec::new();
    let mut arguments = split(options).into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            // The end of the switches; PostgreSQL knows no words behind them.
            return arguments.next().map_or(Ok(settings), |word| Err(StartupFault::Option(word.into())));
        }
        let Some(cluster) = argument.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            return Err(StartupFault::Option(argument.into()));
        };
        if let Some(long) = cluster.strip_prefix('-') {
            settings.push(assignment(long).ok_or_else(|| StartupFault::OptionWithoutValue(argument.as_str().into()))?);
            continue;
        }
        read_cluster(&argument, cluster, &mut arguments, &mut settings)?;
    }
    Ok(settings)
}

/// Switches of one letter each behind one dash; the rest of the first that takes an argument is that, or the next word.
fn read_cluster(
    argument: &str,
    cluster: &str,
    rest: &mut impl Iterator<Item = String>,
    settings: &mut Vec<Pair>,
) -> Result<(), StartupFault> {
    let bad = || StartupFault::Option(argument.into());
    for (at, letter) in cluster.char_indices() {
        let letter = u8::try_from(letter).map_err(|_| bad())?;
        if let Some((_, name, value)) = WITHOUT_ARGUMENT.iter().find(|(l, ..)| *l == letter) {
            settings.push(((*name).into(), (*value).into()));
            continue;
        }
        if IGNORED.1.contains(&letter) {
            continue;
        }
        if !takes_argument(letter) {
            return Err(bad());
        }
        let inline = &cluster[at + 1..];
        let value = if inline.is_empty() { rest.next().ok_or_else(bad)? } else { inline.to_owned() };
        return read_value(letter, value, settings, bad);
    }
    Ok(())
}

fn takes_argument(letter: u8) -> bool {
    b"cdft".contains(&letter) || IGNORED.0.contains(&letter) || WITH_ARGUMENT.iter().any(|(l, _)| *l == letter)
}

fn read_value(
    letter: u8,
    value: String,
    settings: &mut Vec<Pair>,
    bad: impl Fn() -> StartupFault,
) -> Result<(), StartupFault> {
    let pair = match letter {
        b'c' => assignment(&value).ok_or_else(|| StartupFault::OptionWithoutValue(format!("-c {value}").into()))?,
        b'd' => {
            settings.extend(debugging(&value));
            return Ok(());
        }
        b'f' => (find(&PLANS, &value).ok_or_else(bad)?, "false".into()),
        b't' => (find(&STATS, value.get(..2).unwrap_or("")).ok_or_else(bad)?, "true".into()),
        _ => match WITH_ARGUMENT.iter().find(|(l, _)| *l == letter) {
            Some((_, name)) => ((*name).into(), value),
            None => return Ok(()),
        },
    };
    settings.push(pair);
    Ok(())
}

fn find(table: &[(&str, &str)], key: &str) -> Option<String> {
    table.iter().find(|(k, _)| *k == key).map(|(_, name)| (*name).to_owned())
}

/// `name=value`, where dashes in the name stand for underscores.
fn assignment(text: &str) -> Option<Pair> {
    let (name, value) = text.split_once('=')?;
    Some((name.replace('-', "_"), value.to_owned()))
}

/// `-d level`, as `set_debug_options` reads it: `atoi` takes the number in front, and what is none for 0. A level that
/// there is not is PostgreSQL's to refuse.
fn debugging(value: &str) -> Vec<Pair> {
    let value = value.trim_start();
    let digits = value.strip_prefix('+').unwrap_or(value);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let level = digits[..end].parse::<u64>().unwrap_or(0);
    let messages = if level > 0 { format!("debug{level}") } else { "notice".to_owned() };
    let more = [
        (2, "log_statement", "all"),
        (3, "debug_print_parse", "true"),
        (4, "debug_print_plan", "true"),
        (5, "debug_print_rewritten", "true"),
    ];
    let more = more.into_iter().filter(|(from, ..)| level >= *from).map(|(_, name, value)| (name.into(), value.into()));
    std::iter::once(("log_min_messages".to_owned(), messages)).chain(more).collect()
}

/// Arguments are separated by white space; a backslash takes the next character as it is.
fn split(options: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut characters = options.chars();
    while let Some(c) = characters.next() {
        match c {
            c if c.is_ascii_whitespace() => arguments.extend(current.take()),
            '\\' => current.get_or_insert_default().extend(characters.next()),
            c => current.get_or_insert_default().push(c),
        }
    }
    arguments.extend(current);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(options: &str) -> Result<String, StartupFault> {
        read(options).map(|v| v.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("|"))
    }

    #[test]
    fn assignments_are_read_as_postgresql_reads_them() {
        assert_eq!(pairs("-c a=b --c-d=e\\ f -cg=h  "), Ok("a=b|c_d=e f|g=h".into()));
        assert_eq!(pairs("--search-path=a\\\\b"), Ok("search_path=a\\b".into()));
        assert_eq!(pairs(""), Ok(String::new()));
    }

    #[test]
    fn switches_are_settings() {
        assert_eq!(
            pairs("-e -S 64 -fh -t pa"),
            Ok("datestyle=euro|work_mem=64|enable_hashjoin=false|log_parser_stats=true".into())
        );
        assert_eq!(pairs("-eOS64 -n -C x"), Ok("datestyle=euro|allow_system_table_mods=true|work_mem=64".into()));
        assert_eq!(pairs("-d2"), Ok("log_min_messages=debug2|log_statement=all".into()));
        assert_eq!(pairs("-d 2x"), pairs("-d +2"), "as atoi reads it");
        assert_eq!(pairs("-d -1"), Ok("log_min_messages=notice".into()));
        assert!(pairs("-d 7").unwrap().starts_with("log_min_messages=debug7|"), "PostgreSQL's to refuse");
    }

    #[test]
    fn what_postgresql_refuses_is_refused() {
        assert_eq!(pairs("-e --"), Ok("datestyle=euro".into()), "the end of the switches");
        assert_eq!(pairs("-e -- word"), Err(StartupFault::Option("word".into())));
        for bad in ["-Z", "-c", "word", "-", "-fz", "-tq", "-eZ", "-\u{e9}"] {
            assert_eq!(pairs(bad), Err(StartupFault::Option(bad.into())), "{bad}");
        }
        for (bad, told) in [("--x", "--x"), ("-c novalue", "-c novalue"), ("-cx", "-c x")] {
            assert_eq!(pairs(bad), Err(StartupFault::OptionWithoutValue(told.into())), "{bad}");
        }
    }
}
