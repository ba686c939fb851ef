//! What a client does, as bytes for the wire and as a line of text: `Parse "a" "SELECT 1"`. The text form is that of the
//! kept cases; what the line says is what is sent, right or wrong.

use std::fmt;

use crate::wire::message as m;

/// One message, or the end of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A simple Query.
    Query(String),
    /// Parse: name, text, oids of parameter types.
    Parse(String, String, Vec<u32>),
    /// Bind.
    Bind(Bind),
    /// Describe: `S` or `P`, name.
    Describe(char, String),
    /// Execute: portal, row limit.
    Execute(String, u32),
    /// Close: `S` or `P`, name.
    Close(char, String),
    /// Flush.
    Flush,
    /// Sync.
    Sync,
    /// CopyData.
    CopyData(Vec<u8>),
    /// CopyDone.
    CopyDone,
    /// CopyFail: the reason.
    CopyFail(String),
    /// FunctionCall: the function's oid and its arguments in text.
    FunctionCall(u32, Vec<String>),
    /// Bytes as they are: messages that are wrong, or not whole.
    Raw(Vec<u8>),
    /// Terminate, the polite end.
    Terminate,
    /// The socket is closed.
    HangUp,
}

/// Bind with the format codes of parameters and results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// The portal it makes.
    pub portal: String,
    /// The statement it takes.
    pub statement: String,
    /// Parameter values, `None` for NULL.
    pub values: Vec<Option<Vec<u8>>>,
    /// Format codes of the values.
    pub formats: Vec<u16>,
    /// Format codes of the results.
    pub results: Vec<u16>,
}

impl Op {
    /// What goes over the wire; nothing for a hang-up.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Op::Query(sql) => m::query(sql),
            Op::Parse(name, sql, types) => m::parse(name, sql, types),
            Op::Bind(bind) => bind.bytes(),
            Op::Describe(kind, name) => m::describe(*kind as u8, name),
            Op::Execute(portal, rows) => m::execute(portal, *rows),
            Op::Close(kind, name) => m::close(*kind as u8, name),
            Op::Flush => m::flush(),
            Op::Sync => m::sync(),
            Op::CopyData(data) => m::copy_data(data),
            Op::CopyDone => m::copy_done(),
            Op::CopyFail(reason) => m::copy_fail(reason),
            Op::FunctionCall(oid, arguments) => {
                let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
                m::function_call(*oid, &arguments)
            }
            Op::Raw(bytes) => bytes.clone(),
            Op::Terminate => m::terminate(),
            Op::HangUp => Vec::new(),
        }
    }

    /// Does it end the connection?
    pub fn ends(&self) -> bool {
        matches!(self, Op::Terminate | Op::HangUp)
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(line: &str) -> Result<Op, String> {
        let tokens = tokens(line)?;
        let mut words = tokens.into_iter();
        let Some(Token::Word(kind)) = words.next() else { return Err(format!("no operation: {line}")) };
        let op = match kind.as_str() {
            "Query" => Op::Query(text(words.next())?),
            "Parse" => Op::Parse(
                text(words.next())?,
                text(words.next())?,
                words.by_ref().map(number).collect::<Result<_, _>>()?,
            ),
            "Bind" => Op::Bind(Bind::read(&mut words)?),
            "Describe" => Op::Describe(letter(words.next())?, text(words.next())?),
            "Execute" => Op::Execute(text(words.next())?, words.next().map_or(Ok(0), number)?),
            "Close" => Op::Close(letter(words.next())?, text(words.next())?),
            "Flush" => Op::Flush,
            "Sync" => Op::Sync,
            "CopyData" => Op::CopyData(bytes(words.next())?),
            "CopyDone" => Op::CopyDone,
            "CopyFail" => Op::CopyFail(text(words.next())?),
            "FunctionCall" => {
                let oid = number(words.next().ok_or("an oid is missing")?)?;
                Op::FunctionCall(oid, words.by_ref().map(|w| text(Some(w))).collect::<Result<_, _>>()?)
            }
            "Raw" => Op::Raw(bytes(words.next())?),
            "Terminate" => Op::Terminate,
            "HangUp" => Op::HangUp,
            other => return Err(format!("unknown operation {other}")),
        };
        words.next().map_or(Ok(op), |_| Err(format!("too much on the line: {line}")))
    }
}

impl Bind {
    fn bytes(&self) -> Vec<u8> {
        let count = |n: usize| u16::try_from(n).expect("few").to_be_bytes();
        let mut body = [self.portal.as_bytes(), b"\0", self.statement.as_bytes(), b"\0"].concat();
        body.extend(count(self.formats.len()));
        self.formats.iter().for_each(|code| body.extend(code.to_be_bytes()));
        body.extend(count(self.values.len()));
        for value in &self.values {
            let len = value.as_ref().map_or(-1, |v| i32::try_from(v.len()).expect("short"));
            body.extend(len.to_be_bytes());
            body.extend(value.iter().flatten());
        }
        body.extend(count(self.results.len()));
        self.results.iter().for_each(|code| body.extend(code.to_be_bytes()));
        m::tagged(b'B', &body)
    }

    fn read(words: &mut impl Iterator<Item = Token>) -> Result<Bind, String> {
        let mut bind = Bind { portal: text(words.next())?, statement: text(words.next())?, ..Bind::default() };
        let mut list = String::from("values");
        for word in words {
            match word {
                Token::Word(word) if ["values", "formats", "results"].contains(&word.as_str()) => list = word,
                Token::Word(word) if word == "null" => bind.values.push(None),
                Token::Text(value) => bind.values.push(Some(value)),
                code => {
                    let codes = if list == "results" { &mut bind.results } else { &mut bind.formats };
                    codes.push(u16::try_from(number(code)?).map_err(|e| e.to_string())?);
                }
            }
        }
        Ok(bind)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Query(sql) => write!(f, "Query {}", quoted(sql)),
            Op::Parse(name, sql, types) => {
                write!(f, "Parse {} {}", quoted(name), quoted(sql))?;
                types.iter().try_for_each(|oid| write!(f, " {oid}"))
            }
            Op::Bind(bind) => write!(f, "{bind}"),
            Op::Describe(kind, name) => write!(f, "Describe {kind} {}", quoted(name)),
            Op::Execute(portal, rows) => write!(f, "Execute {} {rows}", quoted(portal)),
            Op::Close(kind, name) => write!(f, "Close {kind} {}", quoted(name)),
            Op::CopyData(data) => write!(f, "CopyData {}", quoted(data)),
            Op::CopyFail(reason) => write!(f, "CopyFail {}", quoted(reason)),
            Op::FunctionCall(oid, arguments) => {
                write!(f, "FunctionCall {oid}")?;
                arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(argument)))
            }
            Op::Raw(bytes) => write!(f, "Raw {}", quoted(bytes)),
            Op::Flush | Op::Sync | Op::CopyDone | Op::Terminate | Op::HangUp => write!(f, "{self:?}"),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bind {} {}", quoted(&self.portal), quoted(&self.statement))?;
        for value in &self.values {
            match value {
                Some(value) => write!(f, " {}", quoted(value))?,
                None => write!(f, " null")?,
            }
        }
        for (list, codes) in [("formats", &self.formats), ("results", &self.results)] {
            if !codes.is_empty() {
                write!(f, " {list}")?;
                codes.iter().try_for_each(|code| write!(f, " {code}"))?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Token {
    Word(String),
    Text(Vec<u8>),
}

fn tokens(line: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (value, after) = unquote(quoted).ok_or_else(|| format!("a quoted text is wrong: {line}"))?;
            tokens.push(Token::Text(value));
            rest = after.trim_start();
        } else {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            tokens.push(Token::Word(word.to_owned()));
            rest = after.trim_start();
        }
    }
    Ok(tokens)
}

fn quoted(bytes: impl AsRef<[u8]>) -> String {
    format!("\"{}\"", bytes.as_ref().escape_ascii()).replace("\\'", "'")
}

/// The bytes up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((bytes, &text[at + 1..])),
            '\\' => bytes.push(match chars.next()?.1 {
                'n' => b'\n',
                't' => b'\t',
                'r' => b'\r',
                'x' => {
                    let (start, _) = chars.next()?;
                    let (last, _) = chars.next()?;
                    u8::from_str_radix(text.get(start..=last)?, 16).ok()?
                }
                other => u8::try_from(other).ok()?,
            }),
            other => bytes.extend(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    None
}

fn bytes(token: Option<Token>) -> Result<Vec<u8>, String> {
    match token {
        Some(Token::Text(value)) => Ok(value),
        other => Err(format!("a quoted text is missing: {other:?}")),
    }
}

fn text(token: Option<Token>) -> Result<String, String> {
    String::from_utf8(bytes(token)?).map_err(|e| e.to_string())
}

fn number(token: Token) -> Result<u32, String> {
    match token {
        Token::Word(word) => word.parse().map_err(|_| format!("not a number: {word}")),
        Token::Text(_) => Err("a number is missing".into()),
    }
}

fn letter(token: Option<Token>) -> Result<char, String> {
    match token {
        Some(Token::Word(word)) if word.len() == 1 => Ok(char::from(word.as_bytes()[0])),
        other => Err(format!("S or P is missing: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_says_it_all() {
        let lines = [
            r#"Query "SELECT 'x\"\\'\n\x00""#,
            r#"Parse "a" "SELECT $1" 23 25"#,
            r#"Bind "p" "a" "1" null "\x00\x01" formats 0 1 results 1"#,
            r#"Describe S "a""#,
            r#"Execute "" 3"#,
            r#"Close P "p""#,
            "Flush",
            r#"CopyData "1\ta\n""#,
            r#"CopyFail "no""#,
            r#"FunctionCall 177 "1" "2""#,
            r#"Raw "Q\x00\x00\x00\x03""#,
            "HangUp",
        ];
        for line in lines {
            let op = Op::read(line).unwrap();
            assert_eq!(op.to_string(), line);
            assert_eq!(Op::read(&op.to_string()), Ok(op));
        }
        for wrong in ["", "Nonsense", "Query", "Query \"a", "Sync now", "Parse \"a\" \"b\" x"] {
            assert!(Op::read(wrong).is_err(), "{wrong}");
        }
    }
}
