//! What state a session has, asked of PostgreSQL. On purpose this is neither the pooler's own question nor any part of it: all
//! is asked for every time, and each thing by name and value.

use std::collections::{BTreeMap, BTreeSet};

use pgsluice_sql::Effects;
use pgsluice_tests::wire::Reply;

/// Settings that belong to a transaction.
const OF_TRANSACTION: [&str; 3] = ["transaction_deferrable", "transaction_isolation", "transaction_read_only"];

/// Catalogs of what can stand in the temporary schema, each with its column for the schema.
const WITH_SCHEMA: [(&str, &str); 13] = [
    ("pg_class", "relnamespace"),
    ("pg_type", "typnamespace"),
    ("pg_proc", "pronamespace"),
    ("pg_operator", "oprnamespace"),
    ("pg_opclass", "opcnamespace"),
    ("pg_opfamily", "opfnamespace"),
    ("pg_collation", "collnamespace"),
    ("pg_conversion", "connamespace"),
    ("pg_statistic_ext", "stxnamespace"),
    ("pg_ts_config", "cfgnamespace"),
    ("pg_ts_dict", "dictnamespace"),
    ("pg_ts_parser", "prsnamespace"),
    ("pg_ts_template", "tmplnamespace"),
];

/// The question, as one Query without effect on what it asks: it names the schema of all it uses, as `search_path` may be
/// anything; texts come as hexadecimal digits, as `client_encoding` may be anything; and it works for any role. `names` are
/// custom settings to look at, which no view lists: lower case, of the characters of [`dotted`]. Rows: kind, name, value.
pub(crate) fn query<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names = names.into_iter().collect::<Vec<_>>().join(",");
    let hex = |text: &str| {
        format!("pg_catalog.encode(pg_catalog.convert_to({text}, pg_catalog.getdatabaseencoding()), 'hex')")
    };
    let (name, setting, statement, custom) = (hex("name"), hex("setting"), hex("statement"), hex("c"));
    let mut query = format!(
        "SELECT CASE WHEN source OPERATOR(pg_catalog.=) 'session' THEN 's' ELSE 'd' END, {name}, {setting}
        FROM pg_catalog.pg_show_all_settings()
        WHERE source OPERATOR(pg_catalog.=) 'session' OR pg_catalog.strpos(name, '.') OPERATOR(pg_catalog.>) 0
        UNION ALL SELECT 'n', {custom}, {} FROM pg_catalog.unnest('{{{names}}}'::pg_catalog.text[]) u (c)
        UNION ALL SELECT 's', {}, {} FROM pg_catalog.unnest('{{role,session_authorization}}'::pg_catalog.text[]) u (c)
        UNION ALL SELECT 's', {}, {}
        UNION ALL SELECT 'p', {name}, {statement} FROM pg_catalog.pg_prepared_statement()
        UNION ALL SELECT 'c', {name}, {statement} FROM pg_catalog.pg_cursor()
        UNION ALL SELECT 'l', {custom}, '' FROM pg_catalog.pg_listening_channels() u (c)
        UNION ALL SELECT 'a', {}, '' FROM pg_catalog.pg_lock_status()
        WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()",
        hex("pg_catalog.current_setting(c, true)"),
        custom,
        hex("pg_catalog.current_setting(c)"),
        hex("'session_user'"),
        hex("SESSION_USER::pg_catalog.text"),
        hex("pg_catalog.concat(classid, ' ', objid, ' ', objsubid, ' ', mode)"),
    );
    for (catalog, column) in WITH_SCHEMA {
        // The first condition is tried once, and spares the search where nothing temporary was ever made.
        query += &format!(
            " UNION ALL SELECT 't', {}, '' FROM pg_catalog.{catalog}
            WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
            AND {column} OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()",
            hex(&format!("pg_catalog.concat('{catalog} ', oid)"))
        );
    }
    query
}

/// The state of a session at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// What there is, with its value, or an empty text where existence is all there is to tell.
    items: BTreeMap<(Kind, String), String>,
    /// Settings among them that no view lists.
    custom: BTreeSet<String>,
}

/// One letter for each part of the state, as in the rows of [`query`].
type Kind = char;

/// A part of a session's state that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Which part: one effect.
    pub(crate) part: Effects,
    /// What has changed.
    pub(crate) name: String,
    /// It is a setting that no view lists.
    pub(crate) custom: bool,
    /// What it was; `None`: it was not there.
    pub(crate) before: Option<String>,
    /// What it is; `None`: it is gone.
    pub(crate) after: Option<String>,
}

impl State {
    /// From the rows of the answer. `None`: that is not how an answer looks.
    pub(crate) fn from_rows(rows: &[Reply]) -> Option<State> {
        let mut state = State::default();
        let mut listed = BTreeSet::new();
        let mut custom = Vec::new();
        for row in rows {
            let [Some(kind), Some(name), value] = &row.values()[..] else { return None };
            let (kind, name) = (kind.chars().next()?, unhex(name)?);
            let value = value.as_deref().map(unhex);
            match (kind, value) {
                ('n', None) => {}
                ('n', Some(value)) => custom.push((name, value?)),
                ('d', _) => drop(listed.insert(name)),
                ('s', Some(_)) if OF_TRANSACTION.contains(&&*name) => {}
                (_, Some(value)) => drop(state.items.insert((kind, name), value?)),
                (_, None) => return None,
            }
        }
        // PostgreSQL cannot forget that there was one: it is empty then. See docs/session-state.md.
        for (name, value) in custom.into_iter().filter(|(name, value)| !value.is_empty() && !listed.contains(name)) {
            if state.items.insert(('s', name.clone()), value).is_none() {
                state.custom.insert(name);
            }
        }
        Some(state)
    }

    /// What is different in another state, a later one.
    pub(crate) fn changes(&self, later: &State) -> Vec<Change> {
        let all = self.items.keys().chain(later.items.keys()).collect::<BTreeSet<_>>();
        let differing = all.into_iter().filter(|item| self.items.get(*item) != later.items.get(*item));
        let change = |item: &(Kind, String)| Change {
            part: part(item.0),
            name: item.1.clone(),
            custom: self.custom.contains(&item.1) || later.custom.contains(&item.1),
            before: self.items.get(item).cloned(),
            after: later.items.get(item).cloned(),
        };
        differing.map(change).collect()
    }
}

fn part(kind: Kind) -> Effects {
    match kind {
        's' => Effects::SETTINGS,
        'p' => Effects::PREPARE,
        'c' => Effects::CURSOR,
        'l' => Effects::LISTEN,
        't' => Effects::TEMP,
        'a' => Effects::ADVISORY,
        other => unreachable!("no row is of the kind {other:?}"),
    }
}

/// Names in a text that could be those of custom settings: words with dots between them, in lower case, ASCII only. Empty
/// for a text that has not "set" in it, in SET, RESET or `set_config`, as it makes none.
pub(crate) fn dotted(text: &[u8]) -> BTreeSet<String> {
    if !text.windows(3).any(|part| part.eq_ignore_ascii_case(b"set")) {
        return BTreeSet::new();
    }
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
    let words = text.split(|byte| !is_word(byte));
    let names = words.filter(|word| word.contains(&b'.') && word.first().is_some_and(|byte| !byte.is_ascii_digit()));
    let names = names.map(|word| String::from_utf8_lossy(word).trim_matches('.').to_ascii_lowercase());
    names.filter(|name| name.contains('.')).collect()
}

/// The text behind hexadecimal digits; what is not UTF-8 in it is replaced.
fn unhex(digits: &str) -> Option<String> {
    let digits = digits.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    Some(String::from_utf8_lossy(&bytes.collect::<Option<Vec<_>>>()?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A DataRow of texts; `None` is null.
    fn row(kind: &str, name: &str, value: Option<&str>) -> Reply {
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut body = vec![0, 3];
        for value in [Some(kind.to_owned()), Some(hex(name)), value.map(hex)] {
            let length = value.as_ref().map_or(-1, |value| value.len() as i32);
            body.extend(length.to_be_bytes());
            body.extend(value.unwrap_or_default().bytes());
        }
        Reply { tag: b'D', body }
    }

    fn state(rows: &[Reply]) -> State {
        State::from_rows(rows).expect("rows as they should be")
    }

    #[test]
    fn what_is_made_changed_and_gone_is_told_apart() {
        let before = state(&[row("s", "work_mem", Some("1")), row("l", "news", Some("")), row("a", "0 1", Some(""))]);
        let after =
            state(&[row("s", "work_mem", Some("2")), row("t", "pg_class 7", Some("")), row("a", "0 1", Some(""))]);
        let changes = before.changes(&after);
        let told = changes.iter().map(|c| (c.part, &*c.name, c.before.as_deref(), c.after.as_deref()));
        let expected = [
            (Effects::LISTEN, "news", Some(""), None),
            (Effects::SETTINGS, "work_mem", Some("1"), Some("2")),
            (Effects::TEMP, "pg_class 7", None, Some("")),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert_eq!(after.changes(&after), []);
    }

    #[test]
    fn a_custom_setting_is_one_that_no_view_lists() {
        let custom = state(&[row("n", "app.a", Some("x")), row("n", "app.b", Some("")), row("n", "app.c", None)]);
        let changes = State::default().changes(&custom);
        assert_eq!(changes.len(), 1);
        assert!(changes[0].custom && changes[0].name == "app.a");
        let listed = [row("d", "lib.a", Some("x")), row("n", "lib.a", Some("x"))];
        assert_eq!(state(&listed), State::default());
        let set = state(&[row("s", "lib.a", Some("x")), row("n", "lib.a", Some("x"))]);
        assert!(!State::default().changes(&set)[0].custom);
    }

    #[test]
    fn names_with_dots_are_found_wherever_settings_are_made() {
        let found = |text: &str| dotted(text.as_bytes()).into_iter().collect::<Vec<_>>();
        assert_eq!(found("SET App.Tenant = 'x.y'; select 1.5, t.a$.b"), ["app.tenant", "t.a$.b", "x.y"]);
        assert!(found("select a.b").is_empty());
    }
}
