//! The reader: goes through a text once and notes what its statements may do.

use crate::effects::Effects;
use crate::lex::{Lexer, Token};
use crate::name::Name;
use crate::suspects::Suspects;
use crate::words::{Word, identify};

/// So many names of settings with a dot are taken from a text; one with more is [`Effects::OPAQUE`].
pub const CUSTOM_MAX: usize = 64;

/// Tokens of a value in a call of `set_config` that are looked at.
const VALUE_TOKENS_MAX: usize = 16;

/// What a text may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The effects of all its statements together.
    pub effects: Effects,
    /// Names of settings with a dot in them (`app.tenant`) that SET, RESET, `set_config` with a literal, or the SET of
    /// an ALTER or CREATE names: in lower case, as PostgreSQL compares them, without quotes, each once, at most
    /// [`CUSTOM_MAX`]. `pg_settings` does not show these.
    pub custom: Vec<Box<str>>,
}

/// Reads what a client sends as a Query or Parse: one statement or several. A NUL ends the text.
///
/// `suspects` are those of the client's database. After [`Effects::DDL`] they may be out of date, and a function may have
/// executed DDL where no text shows it.
pub fn read(text: &[u8], suspects: Option<&Suspects>) -> Reading {
    let Some(suspects) = suspects.filter(|suspects| !suspects.is_silent()) else {
        return read_as(Language::Sql, text, None);
    };
    let (mut mentioned, mut counts) = (false, false);
    let mut reading = read_as(
        Language::Sql,
        text,
        Some(&mut |name| {
            mentioned |= suspects.has(name);
            counts |= suspects.counts(name);
        }),
    );
    if counts {
        reading.effects |= Effects::SEQUENCE;
    }
    if mentioned || suspects.concern(reading.effects) {
        reading.effects |= Effects::SUSPECT;
    }
    reading
}

/// Whose grammar a text has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// A client's text, or the body of a function in SQL.
    Sql,
    /// The body of a function in PL/pgSQL.
    Plpgsql,
}

/// Who is told every identifier and keyword.
pub(crate) type Watch<'w> = &'w mut dyn FnMut(Name<'_>);

/// Reads a text in both ways that `standard_conforming_strings` allows, where they differ.
pub(crate) fn read_as(language: Language, text: &[u8], mut watch: Option<Watch<'_>>) -> Reading {
    let mut reading = Reading::default();
    if read_one_way(language, text, false, &mut watch, &mut reading) {
        read_one_way(language, text, true, &mut watch, &mut reading);
    }
    if reading.effects.contains(Effects::PG_SETTINGS) {
        reading.effects = reading.effects.without(Effects::PG_SETTINGS);
        // The view's rule passes an UPDATE on to set_config.
        if reading.effects.contains(Effects::WRITE) {
            reading.effects |= Effects::SETTINGS;
        }
    }
    reading
}

/// Adds to a reading; whether the text can be read the other way, too.
fn read_one_way(
    language: Language,
    text: &[u8],
    escapes: bool,
    watch: &mut Option<Watch<'_>>,
    reading: &mut Reading,
) -> bool {
    let lexer = Lexer::new(text, escapes);
    let watch = watch.as_mut().map(|watch| &mut **watch as Watch<'_>);
    let (first, before) = (Word::Other, Word::Other);
    let mut reader = Reader {
        lexer,
        language,
        watch,
        reading,
        first,
        before,
        at_start: true,
        declaring: false,
        depth: 0,
        symbol: 0,
    };
    reader.run();
    reader.lexer.ambiguous
}

struct Reader<'a, 'w> {
    lexer: Lexer<'a>,
    language: Language,
    watch: Option<Watch<'w>>,
    reading: &'w mut Reading,
    /// The statement's first word.
    first: Word,
    /// The word just before, if nothing else stands between.
    before: Word,
    /// A statement begins with the next token.
    at_start: bool,
    /// In PL/pgSQL, between DECLARE and BEGIN, where no statement can be.
    declaring: bool,
    /// Parentheses open.
    depth: usize,
    /// The symbol just before.
    symbol: u8,
}

impl Reader<'_, '_> {
    fn run(&mut self) {
        loop {
            match self.lexer.next() {
                Token::Word(word) => {
                    self.tell(word, false);
                    match identify(word) {
                        Word::Other if !self.at_start => {}
                        word => {
                            self.word(word);
                            continue;
                        }
                    }
                }
                Token::Quoted(name) => {
                    self.tell(name, true);
                    self.at_start = false;
                    self.before = Word::Other;
                    if let meaning @ (Word::Name(_) | Word::SetConfig) = identify(name) {
                        self.word(meaning);
                    }
                }
                Token::Symbol(symbol) => self.symbol(symbol),
                Token::Text(_) => self.at_start = false,
                Token::Opaque => {
                    self.may(Effects::OPAQUE);
                    self.at_start = false;
                }
                Token::End => break,
            }
            self.before = Word::Other;
        }
        if self.lexer.doubtful {
            self.may(Effects::OPAQUE);
        }
    }

    fn may(&mut self, effects: Effects) {
        self.reading.effects |= effects;
    }

    fn plpgsql(&self) -> bool {
        self.language == Language::Plpgsql
    }

    fn symbol(&mut self, symbol: u8) {
        match symbol {
            b';' => {
                self.first = Word::Other;
                self.depth = 0;
            }
            b'(' => self.depth += 1,
            b')' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        // In PL/pgSQL a label ends with two of these.
        let label = self.plpgsql() && symbol == b'>' && self.symbol == b'>';
        self.at_start = (symbol == b';' || label) && !self.declaring;
        self.symbol = symbol;
    }

    fn word(&mut self, word: Word) {
        let start = std::mem::take(&mut self.at_start);
        if start {
            if self.plpgsql() && word != Word::Other && self.assigns() {
                return;
            }
            self.first = word;
        }
        match word {
            Word::Other => {}
            Word::Begins(effects) if start => self.may(effects),
            Word::Name(effects) | Word::Anywhere(effects) => self.may(effects),
            Word::WritesInto => self.may(Effects::WRITE),
            Word::SetConfig => self.set_config(),
            Word::Set | Word::Reset => self.set(word, start),
            Word::Create if start || self.first == Word::Explain => self.may(Effects::DDL),
            Word::Alter if start => self.may(Effects::DDL),
            Word::Close if start && !self.plpgsql() => self.may(Effects::CURSOR),
            Word::Prepare if start => self.prepare(),
            Word::Begin if start && !self.plpgsql() => self.may(Effects::TRANSACTION),
            Word::Declare if self.plpgsql() => self.declaring = start || self.declaring,
            _ => self.phrase(word),
        }
        if self.plpgsql() && matches!(word, Word::Opens | Word::Begin) {
            self.declaring &= word != Word::Begin;
            self.at_start = !self.declaring;
        }
        self.before = word;
    }

    /// A word whose meaning depends on the one before or on the statement's first.
    fn phrase(&mut self, word: Word) {
        match (self.before, word) {
            // FOR UPDATE, FOR NO KEY UPDATE
            (Word::For | Word::Key, Word::Update) => {}
            (_, Word::Update) => self.may(Effects::WRITE),
            (Word::Create | Word::BeforeTemp | Word::Local, Word::Temp) => self.may(Effects::TEMP),
            (Word::Into, Word::Temp) if !self.plpgsql() => self.may(Effects::TEMP),
            (Word::Create, Word::Extension | Word::Schema) | (Word::Alter, Word::Extension) => {
                self.may(Effects::OPAQUE)
            }
            (Word::Set, Word::Schema) => self.may(Effects::TEMP),
            (Word::With, Word::Hold) => self.may(Effects::CURSOR),
            (Word::WritesInto, Word::Into) => {}
            // SELECT INTO
            (_, Word::Into) if !self.plpgsql() => self.may(Effects::DDL),
            (_, Word::From) if self.first == Word::Copy && self.depth == 0 => self.may(Effects::WRITE),
            (_, Word::Execute) if self.runs_prepared() => self.may(Effects::PREPARE | Effects::OPAQUE),
            _ => {}
        }
    }

    /// Whether EXECUTE is not the privilege, nor part of a trigger's definition.
    fn runs_prepared(&self) -> bool {
        let defines = matches!(self.first, Word::Create | Word::Alter | Word::Begins(Effects::DDL));
        !defines || self.before == Word::As
    }

    /// Whether an assignment follows in PL/pgSQL: the word is a variable of that name.
    fn assigns(&self) -> bool {
        let mut ahead = self.lexer;
        matches!(ahead.next(), Token::Symbol(b':' | b'=' | b'.' | b'['))
    }

    /// After PREPARE.
    fn prepare(&mut self) {
        let effects = match self.following() {
            Word::Transaction => Effects::TRANSACTION,
            _ => Effects::PREPARE,
        };
        self.may(effects);
    }

    /// The next token, if it is a word. The reader stays where it is.
    fn following(&self) -> Word {
        let mut ahead = self.lexer;
        match ahead.next() {
            Token::Word(word) => identify(word),
            _ => Word::Other,
        }
    }

    /// After SET or RESET. That of an UPDATE is neither at the start of a statement nor in an ALTER or CREATE.
    fn set(&mut self, word: Word, start: bool) {
        if !start && !matches!(self.first, Word::Create | Word::Alter) {
            return;
        }
        let following = self.following();
        let mut ahead = self.lexer;
        let mut modifier = Word::Other;
        if matches!(following, Word::Session | Word::Local) {
            let mut beyond = ahead;
            beyond.next();
            let after = beyond;
            // Unless it is part of the name.
            if beyond.next() != Token::Symbol(b'.') {
                (ahead, modifier) = (after, following);
            }
        }
        // SET LOCAL and SET TRANSACTION end with their transaction; there is no setting of the latter's name.
        let passing = following == Word::Transaction || modifier == Word::Local;
        if start && !(word == Word::Set && passing) {
            self.may(Effects::SETTINGS);
        }
        self.setting(ahead);
    }

    /// Notes the setting whose name, with a dot, comes next: `app.tenant`, `"app" . tenant`, `"app.tenant"`, `app.a.b.c`.
    fn setting(&mut self, mut ahead: Lexer<'_>) {
        let mut name = Vec::new();
        while let Token::Word(part) | Token::Quoted(part) = ahead.next() {
            // No setting that exists has a quote in its name.
            if part.contains(&b'"') {
                return self.may(Effects::OPAQUE);
            }
            name.extend(part);
            if ahead.next() != Token::Symbol(b'.') {
                break;
            }
            name.push(b'.');
        }
        if name.contains(&b'.') {
            self.custom(&name);
        }
    }

    /// After `set_config`.
    fn set_config(&mut self) {
        let mut ahead = self.lexer;
        if ahead.next() != Token::Symbol(b'(') {
            return self.may(Effects::SETTINGS);
        }
        match (ahead.next(), ahead.next()) {
            (Token::Text(Some(_)), Token::Symbol(b',')) if is_local(ahead) => {}
            (Token::Text(Some(name)), Token::Symbol(b',')) => {
                self.may(Effects::SETTINGS);
                if name.contains(&b'.') {
                    self.custom(name);
                }
            }
            _ => self.may(Effects::SETTINGS | Effects::OPAQUE),
        }
    }

    fn custom(&mut self, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else { return self.may(Effects::OPAQUE) };
        let name = name.to_ascii_lowercase().into_boxed_str();
        if self.reading.custom.contains(&name) {
            return;
        }
        if self.reading.custom.len() == CUSTOM_MAX {
            return self.may(Effects::OPAQUE);
        }
        self.reading.custom.push(name);
    }

    /// Tells the watch an identifier.
    #[inline]
    fn tell(&mut self, raw: &[u8], quoted: bool) {
        if let Some(watch) = &mut self.watch {
            watch(Name { raw, quoted });
        }
    }
}

/// Behind the name in a call of `set_config`: is the call certain to be for its transaction only? The value may be anything
/// that has neither a comma nor parentheses in it.
fn is_local(mut ahead: Lexer<'_>) -> bool {
    for _ in 0..VALUE_TOKENS_MAX {
        match ahead.next() {
            Token::Symbol(b',') => {
                let literal = matches!(ahead.next(), Token::Word(word) if word.eq_ignore_ascii_case(b"true"));
                return literal && ahead.next() == Token::Symbol(b')');
            }
            Token::Symbol(b'(' | b')' | b';') | Token::Opaque | Token::End => return false,
            _ => {}
        }
    }
    false
}
