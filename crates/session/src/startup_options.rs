//! The startup parameter `options`: command-line arguments for the backend, of which those that set something are read.
//!
//! Source: `pg_split_opts` in `src/backend/utils/init/postinit.c`, `process_postgres_switches` in
//! `src/backend/tcop/postgres.c`.

/// Names and values of the settings in an `options` parameter.
///
/// # Errors
/// The argument that is not `-c name=value` or `--name=value`.
pub(crate) fn read(options: &str) -> Result<Vec<(String, String)>, String> {
    let mut settings = Vec::new();
    let mut arguments = split(options).into_iter();
    while let Some(argument) = arguments.next() {
        let assignment = if argument == "-c" {
            arguments.next()
        } else {
            argument.strip_prefix("--").or_else(|| argument.strip_prefix("-c")).map(str::to_owned)
        };
        let pair = assignment.as_deref().and_then(|a| a.split_once('=')).filter(|(name, _)| !name.is_empty());
        let Some((name, value)) = pair else { return Err(argument) };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
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

    #[test]
    fn assignments_are_read_as_postgresql_reads_them() {
        let pairs = |o: &str| read(o).map(|v| v.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("|"));
        assert_eq!(pairs("-c a=b --c-d=e\\ f -cg=h  "), Ok("a=b|c_d=e f|g=h".into()));
        assert_eq!(pairs("--search-path=a\\\\b"), Ok("search_path=a\\b".into()));
        assert_eq!(pairs(""), Ok(String::new()));
        assert_eq!(pairs("-e"), Err("-e".into()));
        assert_eq!(pairs("-c"), Err("-c".into()));
        assert_eq!(pairs("-c novalue"), Err("-c".into()));
    }
}
