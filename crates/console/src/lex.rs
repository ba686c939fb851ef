//! Splits the text of a query into statements of tokens: words, quoted names, literals, symbols. It knows quotes and
//! comments as PostgreSQL writes them and nothing about what the words mean.
//!
//! Source: PostgreSQL manual, "Lexical Structure"; escape strings and dollar quotes are not part of the console.

use std::iter::Peekable;
use std::str::CharIndices;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A bare word in the case it was written in.
    Word(String),
    /// A name in double quotes, without them.
    Name(String),
    /// A literal in single quotes, without them.
    Literal(String),
    /// Anything else.
    Symbol(char),
}

/// The tokens of one statement, and its text as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement<'a> {
    pub(crate) text: &'a str,
    pub(crate) tokens: Vec<Token>,
}

/// A quote or a comment has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unterminated;

/// Splits `text` at its semicolons; statements without a token are left out.
pub(crate) fn statements(text: &str) -> Result<Vec<Statement<'_>>, Unterminated> {
    let mut lexer = Lexer { text, chars: text.char_indices().peekable() };
    let mut found = Vec::new();
    let mut tokens = Vec::new();
    let (mut start, mut end) = (0, 0);
    while let Some((at, token)) = lexer.token()? {
        if token == Token::Symbol(';') {
            push(&mut found, &text[start..end], &mut tokens);
            continue;
        }
        if tokens.is_empty() {
            start = at;
        }
        tokens.push(token);
        end = lexer.at();
    }
    push(&mut found, &text[start..end], &mut tokens);
    Ok(found)
}

fn push<'a>(found: &mut Vec<Statement<'a>>, text: &'a str, tokens: &mut Vec<Token>) {
    if !tokens.is_empty() {
        found.push(Statement { text, tokens: std::mem::take(tokens) });
    }
}

struct Lexer<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl Lexer<'_> {
    /// Byte offset of what comes next.
    fn at(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |&(at, _)| at)
    }

    /// The next token and where it starts.
    fn token(&mut self) -> Result<Option<(usize, Token)>, Unterminated> {
        self.skip_blanks()?;
        let Some((at, c)) = self.chars.next() else { return Ok(None) };
        let token = match c {
            '"' => Token::Name(self.quoted('"')?),
            '\'' => Token::Literal(self.quoted('\'')?),
            c if is_word(c) => Token::Word(self.word(at)),
            c => Token::Symbol(c),
        };
        Ok(Some((at, token)))
    }

    /// What follows an opening quote, up to the closing one; a doubled quote stands for itself.
    fn quoted(&mut self, quote: char) -> Result<String, Unterminated> {
        let mut inside = String::new();
        while let Some((_, c)) = self.chars.next() {
            if c == quote && self.chars.next_if(|&(_, next)| next == quote).is_none() {
                return Ok(inside);
            }
            inside.push(c);
        }
        Err(Unterminated)
    }

    fn word(&mut self, start: usize) -> String {
        while self.chars.next_if(|&(at, c)| is_word(c) && !self.text[at..].starts_with("--")).is_some() {}
        let end = self.at();
        self.text[start..end].to_owned()
    }

    fn skip_blanks(&mut self) -> Result<(), Unterminated> {
        loop {
            let rest = &self.text[self.at()..];
            if rest.starts_with("--") {
                while self.chars.next_if(|&(_, c)| c != '\n').is_some() {}
            } else if rest.starts_with("/*") {
                self.skip_comment()?;
            } else if self.chars.next_if(|&(_, c)| c.is_whitespace()).is_none() {
                return Ok(());
            }
        }
    }

    /// A block comment; they nest, as in PostgreSQL.
    fn skip_comment(&mut self) -> Result<(), Unterminated> {
        let mut depth = 0u32;
        loop {
            let (_, c) = self.chars.next().ok_or(Unterminated)?;
            let next = self.chars.peek().map(|&(_, c)| c);
            match (c, next) {
                ('/', Some('*')) => depth += 1,
                ('*', Some('/')) => depth -= 1,
                _ => continue,
            }
            self.chars.next();
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// Wider than PgBouncer's `[0-9a-z_]`, so that `SET x = 0.5`, `-1` and `PAUSE my-db` need no quotes.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        statements(text).unwrap().into_iter().map(|s| s.text).collect()
    }

    #[test]
    fn semicolons_split_outside_quotes_and_comments_only() {
        assert_eq!(texts("show pools ; ;; set a='x;y';"), ["show pools", "set a='x;y'"]);
        assert_eq!(
            texts("pause \"a;b\"; -- c; d\nresume /* ; /* ; */ ; */ \"c\""),
            ["pause \"a;b\"", "resume /* ; /* ; */ ; */ \"c\""]
        );
        assert_eq!(texts(" ;; -- ping"), [""; 0]);
    }

    #[test]
    fn quotes_double_inside_and_words_stop_at_comments() {
        let tokens = statements("a-b--c\n\"q\"\"q\" 'it''s' = é").unwrap().remove(0).tokens;
        let word = |w: &str| Token::Word(w.to_owned());
        let (name, literal) = (Token::Name("q\"q".to_owned()), Token::Literal("it's".to_owned()));
        assert_eq!(tokens, [word("a-b"), name, literal, Token::Symbol('='), word("é")]);
    }

    #[test]
    fn what_has_no_end_is_refused() {
        for text in ["pause \"a", "set a='b", "/* x", "/* /* */", "'a''", "/*/"] {
            assert_eq!(statements(text), Err(Unterminated), "{text}");
        }
    }
}
