//! The shape of a text: what is left of it without the values that stand in it. Texts of one shape have the same reading.

use crate::lex::{Lexer, Token};
use crate::words::{Word, identify};

/// So many values are left out of a text; those after them belong to its shape.
const HOLES_MAX: usize = 128;

/// A text with holes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The pieces between the holes, one behind the other.
    fixed: Box<[u8]>,
    holes: Box<[Hole]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hole {
    /// Bytes of `fixed` in front of it.
    at: u32,
    value: Value,
}

/// What can fill a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// One digit or more.
    Number,
    /// Bytes that stand for themselves in a string of any kind: neither a quote nor a backslash. The quotes around are
    /// parts of the shape.
    Text,
}

impl Value {
    /// Bytes at the beginning of a text that fill the hole.
    fn fills(self, text: &[u8]) -> usize {
        let ends = |byte: &u8| match self {
            Value::Number => !byte.is_ascii_digit(),
            Value::Text => matches!(byte, b'\'' | b'\\' | 0),
        };
        text.iter().position(ends).unwrap_or(text.len())
    }
}

impl Shape {
    /// A text without holes.
    pub(crate) fn whole(text: &[u8]) -> Shape {
        Shape { fixed: text.into(), holes: Box::default() }
    }

    /// The text without its numbers and what stands in its strings. Left whole are a text with a backslash, which may be
    /// read in more than one way, and one with `set_config`, where a string names what is set.
    pub(crate) fn of(text: &[u8]) -> Shape {
        if text.contains(&b'\\') || text.contains(&0) {
            return Shape::whole(text);
        }
        let mut lexer = Lexer::new(text, false);
        let mut fixed = Vec::with_capacity(text.len());
        let mut holes = Vec::new();
        let mut copied = 0;
        while holes.len() < HOLES_MAX {
            let token = lexer.next();
            let end = lexer.at();
            let (value, from, to) = match token {
                Token::End => break,
                Token::Word(word) | Token::Quoted(word) if identify(word) == Word::SetConfig => {
                    return Shape::whole(text);
                }
                Token::Symbol(b'0') => (Value::Number, number(text, end), end),
                Token::Text(Some(content)) if text[end - 1] == b'\'' => (Value::Text, end - 1 - content.len(), end - 1),
                _ => continue,
            };
            fixed.extend(&text[copied..from]);
            copied = to;
            // Texts that are remembered are much shorter.
            let Ok(at) = u32::try_from(fixed.len()) else { return Shape::whole(text) };
            holes.push(Hole { at, value });
        }
        fixed.extend(&text[copied..]);
        Shape { fixed: fixed.into(), holes: holes.into() }
    }

    /// Whether a text is of this shape. Its tokens are then those of the text that the shape was made of, but for the
    /// values: both are cut at the same places, since a number goes on to the first byte that is no digit, and a string
    /// to its quote.
    pub(crate) fn fits(&self, text: &[u8]) -> bool {
        let mut rest = text;
        let mut done = 0;
        for hole in &self.holes {
            let piece = &self.fixed[done..hole.at as usize];
            let Some(behind) = rest.strip_prefix(piece) else { return false };
            let filled = hole.value.fills(behind);
            if filled == 0 && hole.value == Value::Number {
                return false;
            }
            rest = &behind[filled..];
            done = hole.at as usize;
        }
        rest == &self.fixed[done..]
    }
}

/// Where the number begins that ends at `end`.
fn number(text: &[u8], end: usize) -> usize {
    text[..end].iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |before| before + 1)
}

/// Bytes of a text in front of its first value, or more, at most `max`: the same number in all texts of a shape that
/// has a hole there.
pub(crate) fn head(text: &[u8], max: usize) -> usize {
    let text = &text[..text.len().min(max)];
    let mut at = 0;
    for block in text.chunks(16) {
        // All of a block at once, without a branch.
        let any = block.iter().fold(false, |any, byte| any | (*byte == b'\'') | byte.is_ascii_digit());
        if any {
            for (offset, byte) in block.iter().enumerate() {
                let place = at + offset;
                let inside = place > 0 && continues(text[place - 1]);
                if *byte == b'\'' || (byte.is_ascii_digit() && !inside) {
                    return place;
                }
            }
        }
        at += block.len();
    }
    text.len()
}

/// Whether a digit behind this byte belongs to an identifier, a parameter or a number that has begun already.
fn continues(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(of: &str, text: &str) -> bool {
        Shape::of(of.as_bytes()).fits(text.as_bytes())
    }

    #[test]
    fn numbers_and_strings_may_be_others() {
        let cases = [
            ("SELECT 1", "SELECT 23"),
            ("SELECT a1 FROM t WHERE b = 1 AND c=-2.50", "SELECT a1 FROM t WHERE b = 999 AND c=-2.7"),
            ("INSERT INTO t VALUES ('a', E'b', 'c d', '')", "INSERT INTO t VALUES ('', E'', '--', 'it is')"),
            ("SELECT 'a'\n'b'", "SELECT 'x'\n'y'"),
            ("SET app.tenant = '1'", "SET app.tenant = 'two'"),
            ("SELECT $1, 1", "SELECT $1, 2"),
        ];
        for (of, text) in cases {
            assert!(fits(of, text), "{of}: {text}");
            assert!(fits(text, of), "{text}: {of}");
        }
    }

    #[test]
    fn all_else_is_the_same() {
        let cases = [
            ("SELECT 1", "SELECT 1 "),
            ("SELECT 1", "SELECT "),
            ("SELECT 1", "SELECT a"),
            ("SELECT 1", "SELECT 1a"),
            ("SELECT t1", "SELECT t2"),
            ("SELECT $1", "SELECT $2"),
            ("SELECT \"1\"", "SELECT \"2\""),
            ("SELECT '1'", "SELECT '1''2'"),
            ("SELECT '1'", "SELECT '\\'"),
            ("SELECT '1'", "SELECT '\0'"),
            ("SELECT '1", "SELECT '2"),
            ("SELECT U&'1'", "SELECT U&'2'"),
            ("SELECT $$1$$", "SELECT $$2$$"),
            ("SELECT $a1$1$a1$", "SELECT $a2$1$a2$"),
            ("SELECT /* 1 */ a", "SELECT /* 2 */ a"),
            ("SELECT 'a\\', 1", "SELECT 'a\\', 2"),
            ("SELECT set_config('a.b', '1', false)", "SELECT set_config('a.c', '1', false)"),
            ("SELECT \"set_config\"('a.b', '1', false)", "SELECT \"set_config\"('a.c', '1', false)"),
        ];
        for (of, text) in cases {
            assert!(fits(of, of), "{of}");
            assert!(!fits(of, text), "{of}: {text}");
        }
    }

    #[test]
    fn what_comes_behind_many_values_stays() {
        let list = |last: usize| format!("SELECT {}{last}", "1, ".repeat(HOLES_MAX));
        assert!(fits(&list(1), &list(1)));
        assert!(!fits(&list(1), &list(2)));
    }

    #[test]
    fn texts_of_a_shape_have_the_same_head() {
        let cases = [
            ("SELECT abalance FROM accounts WHERE aid = 1;", "SELECT abalance FROM accounts WHERE aid = "),
            ("SELECT t1.a, t2.b FROM t1, t2 WHERE t1.a = 'x' OR 1", "SELECT t1.a, t2.b FROM t1, t2 WHERE t1.a = "),
            ("SELECT $1, $2", "SELECT $1, $2"),
            ("1", ""),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(&text[..head(text.as_bytes(), 256)], expected);
        }
        assert_eq!(head("SELECT 1".as_bytes(), 3), 3);
    }
}
