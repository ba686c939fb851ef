//! The tokens of a SQL text, after PostgreSQL's scanner (`src/backend/parser/scan.l`). Only their extents matter here:
//! numbers and operators are single symbols, and values are not computed.

/// A token. The slices are of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword or an identifier without quotes, as written.
    Word(&'a [u8]),
    /// What stands between the quotes of a quoted identifier, doubled quotes as written.
    Quoted(&'a [u8]),
    /// What stands between the quotes of a string, when that is its value; nothing when it has escapes of any kind.
    Text(Option<&'a [u8]>),
    /// Any other byte; `0` for the digits of a number and `$` for a parameter.
    Symbol(u8),
    /// Something without end, or an identifier with Unicode escapes.
    Opaque,
    /// There are no more.
    End,
}

/// How a backslash counts in a string.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backslash {
    /// It is a byte like any other: `B''`, `X''`, `U&''`.
    Plain,
    /// It escapes the next byte: `E''`.
    Escapes,
    /// The setting `standard_conforming_strings` decides: `''`.
    Depends,
}

/// A place in a text. Copies look ahead.
#[derive(Clone, Copy)]
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// `standard_conforming_strings` is off: a backslash escapes in strings without a prefix.
    escapes: bool,
    /// A string without a prefix ends elsewhere if `escapes` were the other way.
    pub(crate) ambiguous: bool,
    /// The client's encoding may make other tokens of this: a character whose second byte is a backslash.
    pub(crate) doubtful: bool,
}

/// What a byte begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Space,
    Letter,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Dash,
    Slash,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'-' => Class::Dash,
            b'/' => Class::Slash,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

fn class(byte: u8) -> Class {
    CLASSES[usize::from(byte)]
}

/// Whether a byte can stand in an identifier, but for its first. A table of its own: most bytes are asked this.
const CONTINUES_WORD: [bool; 256] = {
    let mut continues = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        continues[byte] = matches!(CLASSES[byte], Class::Letter | Class::Digit | Class::Dollar);
        byte += 1;
    }
    continues
};

impl<'a> Lexer<'a> {
    /// At the start of a text, which ends before its first NUL.
    pub(crate) fn new(text: &'a [u8], escapes: bool) -> Lexer<'a> {
        // The first is fast and nearly always says no.
        let nul = if text.contains(&0) { text.iter().position(|&byte| byte == 0) } else { None };
        Lexer { text: &text[..nul.unwrap_or(text.len())], at: 0, escapes, ambiguous: false, doubtful: false }
    }

    /// Bytes of the text up to the place: the end of the last token.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next token.
    #[inline]
    pub(crate) fn next(&mut self) -> Token<'a> {
        // One space comes before most tokens; to pass it here is faster than in the loop.
        self.at += usize::from(self.peek(0) == Some(b' '));
        loop {
            let Some(byte) = self.peek(0) else { return Token::End };
            match class(byte) {
                Class::Space => self.at += 1,
                Class::Letter => return self.word(),
                Class::Other => {
                    self.at += 1;
                    return Token::Symbol(byte);
                }
                Class::Digit => return self.digits(b'0'),
                Class::Dollar => return self.dollar(),
                Class::Quote => return self.string(1, Backslash::Depends),
                Class::DoubleQuote => return self.quoted(1),
                Class::Dash if self.peek(1) == Some(b'-') => self.skip_line(),
                Class::Slash if self.peek(1) == Some(b'*') => {
                    if !self.skip_comment() {
                        return Token::Opaque;
                    }
                }
                Class::Dash | Class::Slash => {
                    self.at += 1;
                    return Token::Symbol(byte);
                }
            }
        }
    }

    fn peek(&self, offset: usize) -> Option<u8> {
        self.text.get(self.at + offset).copied()
    }

    /// The bytes from `start` to the place.
    fn since(&self, start: usize) -> &'a [u8] {
        &self.text[start..self.at]
    }

    #[inline]
    fn skip_while(&mut self, holds: impl Fn(u8) -> bool) {
        while self.text.get(self.at).is_some_and(|&byte| holds(byte)) {
            self.at += 1;
        }
    }

    #[inline]
    fn word(&mut self) -> Token<'a> {
        let start = self.at;
        self.at += 1;
        self.skip_while(|byte| CONTINUES_WORD[usize::from(byte)]);
        if self.at - start == 1 && matches!(self.peek(0), Some(b'\'' | b'&')) {
            return self.prefixed(self.text[start]);
        }
        Token::Word(self.since(start))
    }

    /// After a single letter that a quote or an ampersand follows: perhaps it belongs to a string.
    fn prefixed(&mut self, letter: u8) -> Token<'a> {
        match (letter | 0x20, self.peek(0), self.peek(1)) {
            (b'e', Some(b'\''), _) => self.string(1, Backslash::Escapes),
            (b'b' | b'x', Some(b'\''), _) => self.string(1, Backslash::Plain),
            (b'u', Some(b'&'), Some(b'\'')) => match self.string(2, Backslash::Plain) {
                // Its escape character can be any.
                Token::Text(_) => Token::Text(None),
                token => token,
            },
            (b'u', Some(b'&'), Some(b'"')) => {
                self.quoted(2);
                Token::Opaque
            }
            _ => Token::Word(&self.text[self.at - 1..self.at]),
        }
    }

    fn digits(&mut self, symbol: u8) -> Token<'a> {
        self.at += 1;
        self.skip_while(|byte| byte.is_ascii_digit());
        Token::Symbol(symbol)
    }

    /// A string whose content begins `opening` bytes ahead.
    fn string(&mut self, opening: usize, backslash: Backslash) -> Token<'a> {
        self.at += opening;
        let start = self.at;
        let mut verbatim = true;
        loop {
            self.skip_while(|byte| byte != b'\'' && byte != b'\\');
            match (self.peek(0), self.peek(1)) {
                (None, _) => return Token::Opaque,
                (Some(b'\''), Some(b'\'')) => {
                    verbatim = false;
                    self.at += 2;
                }
                (Some(b'\''), _) => {
                    let content = self.since(start);
                    self.at += 1;
                    if backslash != Backslash::Escapes || !self.skip_to_continuation() {
                        return Token::Text(verbatim.then_some(content));
                    }
                    verbatim = false;
                }
                (Some(_), _) => {
                    verbatim = false;
                    self.backslashes(backslash);
                }
            }
        }
    }

    /// Passes a run of backslashes, and the byte that the last one escapes.
    fn backslashes(&mut self, backslash: Backslash) {
        let start = self.at;
        self.skip_while(|byte| byte == b'\\');
        if backslash == Backslash::Plain {
            return;
        }
        let odd = (self.at - start) % 2 == 1;
        if self.peek(0) == Some(b'\'') {
            self.ambiguous |= odd && backslash == Backslash::Depends;
            // In Shift JIS, Big5, GBK and their like the first can be the second half of a character.
            self.doubtful |= start > 0 && self.text[start - 1] >= 0x80;
        }
        if !odd {
            return;
        }
        if (self.escapes || backslash == Backslash::Escapes) && self.at < self.text.len() {
            self.at += 1;
        }
    }

    /// After a string with escapes: a string on a later line, with nothing but space and comments between, is more of it.
    fn skip_to_continuation(&mut self) -> bool {
        let end = self.at;
        let mut newline = false;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'\n' | b'\r'), _) => newline = true,
                (Some(byte), _) if class(byte) == Class::Space => {}
                (Some(b'-'), Some(b'-')) => {
                    self.skip_line();
                    continue;
                }
                (Some(b'\''), _) if newline => {
                    self.at += 1;
                    return true;
                }
                _ => {
                    self.at = end;
                    return false;
                }
            }
            self.at += 1;
        }
    }

    /// A quoted identifier whose content begins `opening` bytes ahead.
    fn quoted(&mut self, opening: usize) -> Token<'a> {
        self.at += opening;
        let start = self.at;
        loop {
            self.skip_while(|byte| byte != b'"');
            match (self.peek(0), self.peek(1)) {
                (None, _) => return Token::Opaque,
                (_, Some(b'"')) => self.at += 2,
                _ => {
                    let content = self.since(start);
                    self.at += 1;
                    return Token::Quoted(content);
                }
            }
        }
    }

    /// A parameter, or a string in dollar quotes.
    fn dollar(&mut self) -> Token<'a> {
        let start = self.at;
        match self.peek(1).map(class) {
            Some(Class::Digit) => return self.digits(b'$'),
            Some(Class::Letter | Class::Dollar) => {}
            _ => {
                self.at += 1;
                return Token::Symbol(b'$');
            }
        }
        self.at += 1;
        self.skip_while(|byte| matches!(class(byte), Class::Letter | Class::Digit));
        if self.peek(0) != Some(b'$') {
            // An error of syntax, unless an encoding has put another byte into the tag.
            self.doubtful = true;
            self.at = start + 1;
            return Token::Symbol(b'$');
        }
        self.at += 1;
        let tag = self.since(start);
        let content = self.at;
        loop {
            self.skip_while(|byte| byte != b'$');
            let rest = &self.text[self.at..];
            if rest.is_empty() {
                return Token::Opaque;
            }
            if rest.starts_with(tag) {
                let content = self.since(content);
                self.at += tag.len();
                return Token::Text(Some(content));
            }
            self.at += 1;
        }
    }

    /// Passes a comment up to the end of its line.
    fn skip_line(&mut self) {
        self.skip_while(|byte| byte != b'\n' && byte != b'\r');
    }

    /// Passes a comment with the comments in it; false if it has no end.
    fn skip_comment(&mut self) -> bool {
        let mut depth = 0_usize;
        loop {
            self.skip_while(|byte| byte != b'*' && byte != b'/');
            match (self.peek(0), self.peek(1)) {
                (None, _) => return false,
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                _ => self.at += 1,
            }
        }
    }
}
