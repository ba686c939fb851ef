//! The auth_file: a line `"user" "secret"` per user, a quote inside doubled, more after the secret ignored, as PgBouncer
//! reads it (`load_auth_file` in `src/loader.c`). Unlike PgBouncer it does not stop at the first malformed line.

use crate::ini::unquote;
use crate::problem::Syntax;
use crate::secret::Secret;

/// Longest user name, in bytes (PgBouncer's MAX_USERNAME).
pub const USER_BYTES_MAX: usize = 128;

/// Longest secret, in bytes (PgBouncer's MAX_PASSWORD).
pub const SECRET_BYTES_MAX: usize = 65_531;

/// A user, a secret and the line they stand in, or what is wrong with that line.
pub(crate) type Line = (u32, Result<(String, Secret), Syntax>);

/// Every line that is neither blank nor a comment (`;` or `#`).
pub(crate) fn parse(text: &str) -> impl Iterator<Item = Line> {
    let lines = (1..).zip(text.lines().map(str::trim));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with([';', '#'])).map(|(n, line)| (n, user(line)))
}

fn user(line: &str) -> Result<(String, Secret), Syntax> {
    let (name, rest) = word(line)?;
    let (secret, _) = word(rest)?;
    if name.is_empty() {
        return Err(Syntax::NoUserName);
    }
    if name.len() > USER_BYTES_MAX || secret.len() > SECRET_BYTES_MAX {
        return Err(Syntax::LongUser);
    }
    Ok((name, Secret::new(secret)))
}

fn word(text: &str) -> Result<(String, &str), Syntax> {
    let quoted = text.trim_start().strip_prefix('"').ok_or(Syntax::BadUser)?;
    unquote(quoted, '"').ok_or(Syntax::OpenQuote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text =
            "; comment\n\n\"a\" \"b\"\n \"q\"\"q\" \"\" ignored\n\"x\"\nx y\n\"x\" \"y\n\"\" \"y\"\n\"a\"\"b\"\n";
        let found: Vec<_> = parse(text)
            .map(|(n, r)| match r {
                Ok((user, secret)) => format!("{n} {user}={}", secret.expose()),
                Err(syntax) => format!("{n} {syntax:?}"),
            })
            .collect();
        let expected = ["3 a=b", "4 q\"q=", "5 BadUser", "6 BadUser", "7 OpenQuote", "8 NoUserName", "9 BadUser"];
        assert_eq!(found, expected);
    }
}
