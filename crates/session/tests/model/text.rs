//! As much of SQL's grammar as the model needs: where a statement ends, and literals.

use std::collections::VecDeque;

/// The statements of a Query. A semicolon between quotes, or between two `$$`, ends none.
pub(crate) fn split(text: &str) -> VecDeque<String> {
    let (mut list, mut statement) = (VecDeque::new(), String::new());
    let (mut quoted, mut dollars) = (false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if !dollars => quoted = !quoted,
            '$' if !quoted && chars.peek() == Some(&'$') => {
                chars.next();
                statement.push('$');
                dollars = !dollars;
            }
            ';' if !quoted && !dollars => {
                list.push_back(std::mem::take(&mut statement));
                continue;
            }
            _ => {}
        }
        statement.push(c);
    }
    list.push_back(statement);
    list.into_iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

/// One call of `set_config`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SetConfig {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) is_local: bool,
}

/// `select set_config('name', 'value', false), …`; `None` if it is something else.
pub(crate) fn set_configs(text: &str) -> Option<Vec<SetConfig>> {
    let mut rest = without_word(text.trim(), "select")?;
    let mut calls = Vec::new();
    loop {
        rest = without_word(rest, "pg_catalog.set_config").or_else(|| without_word(rest, "set_config"))?;
        let (name, after) = expression(rest.strip_prefix('(')?)?;
        let (value, after) = expression(after.strip_prefix(',')?)?;
        let after = after.strip_prefix(',')?.trim_start();
        let (is_local, after) = match after.strip_prefix("true") {
            Some(after) => (true, after),
            None => (false, after.strip_prefix("false")?),
        };
        calls.push(SetConfig { name, value, is_local });
        rest = after.strip_prefix(')')?.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => return rest.is_empty().then_some(calls),
        }
    }
}

fn without_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (front, rest) = text.split_at_checked(word.len())?;
    front.eq_ignore_ascii_case(word).then(|| rest.trim_start())
}

/// A literal, or what stands for the bytes of one; and what follows it.
fn expression(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(hex) = text.strip_prefix("pg_catalog.convert_from(pg_catalog.decode(") else {
        let (literal, rest) = literal(text)?;
        return Some((literal, rest.trim_start()));
    };
    let (digits, rest) = literal(hex)?;
    let rest = rest.strip_prefix(",'hex'),pg_catalog.getdatabaseencoding())")?;
    let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok());
    Some((String::from_utf8(bytes.collect::<Option<_>>()?).ok()?, rest))
}

/// Between quotes; a quote is there twice.
fn literal(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('\'')?;
    let mut value = String::new();
    loop {
        let end = rest.find('\'')?;
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, rest)),
        }
    }
}

/// The elements of an array of texts, as it is written; the elements here are always quoted.
pub(crate) fn array(text: &str) -> Vec<String> {
    let inside = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).expect("an array");
    let (mut all, mut element) = (Vec::new(), None::<String>);
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match (&mut element, c) {
            (None, '"') => element = Some(String::new()),
            (None, c) => assert_eq!(c, ',', "between elements"),
            (Some(_), '"') => all.extend(element.take()),
            (Some(element), '\\') => element.extend(chars.next()),
            (Some(element), c) => element.push(c),
        }
    }
    all
}

/// `$1`, `$2`, …: the highest of them.
pub(crate) fn parameters(text: &str) -> usize {
    let numbers = text.split('$').skip(1).map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>());
    numbers.filter_map(|digits| digits.parse().ok()).max().unwrap_or(0)
}

#[test]
fn literals_and_lists_are_read() {
    assert_eq!(split("a; 'b;''c' ;; do $$d;e$$ "), ["a", "'b;''c'", "do $$d;e$$"]);
    let call = |name: &str, value: &str, is_local| SetConfig { name: name.into(), value: value.into(), is_local };
    let text = "SELECT pg_catalog.set_config('a','it''s',false),set_config('b', \
        pg_catalog.convert_from(pg_catalog.decode('c3a9','hex'),pg_catalog.getdatabaseencoding()), true)";
    assert_eq!(set_configs(text), Some(vec![call("a", "it's", false), call("b", "\u{e9}", true)]));
    assert_eq!([set_configs("select 1"), set_configs("select set_config('a','b',false) from t")], [None, None]);
    assert_eq!(array(r#"{"a","b\"\\"}"#), ["a", r#"b"\"#]);
    assert_eq!([parameters("$2 $10 $2"), parameters("do $$x$$"), parameters("")], [10, 0, 0]);
}
