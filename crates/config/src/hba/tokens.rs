//! Lines, fields and words of both files, with what they include, after PostgreSQL's tokenizer (`tokenize_auth_file` in
//! `src/backend/libpq/hba.c`). A line with a mistake is reported and left out.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::document::{Place, Report};
use crate::files::{FILE_BYTES_MAX, Files, read_near};
use crate::ini::INCLUDE_DEPTH_MAX;
use crate::kinds::quoted;
use crate::problem::{ProblemKind, Syntax};

/// Files that one pg_hba.conf or pg_ident.conf includes in all; an `@file` counts each time it is named. Together they
/// may be as long as one file. Depth alone would allow a number of readings exponential in it.
pub const RULE_FILES_MAX: u32 = 1000;

/// A word.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Whether it begins with a quote, so that a keyword is a name.
    pub(super) quoted: bool,
}

/// Words joined by commas; never empty.
pub(super) type Field = Vec<Token>;

/// A line that is no comment and no include.
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) fields: Vec<Field>,
}

impl Token {
    /// Whether it is this keyword, which a quoted word never is.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }

    /// Whether it stands for the members of a role.
    pub(super) fn is_group(&self) -> bool {
        !self.quoted && self.text.starts_with('+')
    }

    /// The pattern of a word that is one. Quotes do not change that: they are for patterns with commas and blanks.
    pub(super) fn pattern(&self) -> Option<&str> {
        self.text.strip_prefix('/')
    }

    /// The file that the word stands for.
    fn list(&self) -> Option<&str> {
        self.text.strip_prefix('@').filter(|path| !self.quoted && !path.is_empty())
    }
}

/// All lines of a text and what it includes, in order.
pub(super) fn read(text: &str, file: Arc<Path>, files: &dyn Files, report: &mut Report) -> Vec<Line> {
    let mut reader = Reader { files, report, included: 0, bytes: text.len() as u64, is_full: false };
    let mut lines = Vec::new();
    reader.file(text, &file, 0, &mut lines);
    lines
}

struct Reader<'a> {
    files: &'a dyn Files,
    report: &'a mut Report,
    included: u32,
    bytes: u64,
    /// Whether more was to be included than may be.
    is_full: bool,
}

impl Reader<'_> {
    fn file(&mut self, text: &str, file: &Arc<Path>, depth: u32, lines: &mut Vec<Line>) {
        let mut physical = (1..).zip(text.lines());
        while let Some((line, first)) = physical.next() {
            let place = Place { file: Arc::clone(file), line };
            match fields(&joined(first, &mut physical)) {
                Ok(fields) if fields.is_empty() => {}
                Ok(fields) => self.line(place, fields, depth, lines),
                Err(syntax) => self.report.problem(&place, "", ProblemKind::Syntax(syntax)),
            }
        }
    }

    fn line(&mut self, place: Place, fields: Vec<Field>, depth: u32, lines: &mut Vec<Line>) {
        if let [first, second] = fields.as_slice()
            && let ([directive], [path]) = (first.as_slice(), second.as_slice())
        {
            let key = || format!("{} {}", directive.text, path.text);
            match directive.text.as_str() {
                "include" => return self.include(&key(), &path.text, false, &place, depth, lines),
                "include_if_exists" => return self.include(&key(), &path.text, true, &place, depth, lines),
                "include_dir" => return self.report.problem(&place, &key(), NO_DIRECTORY),
                _ => {}
            }
        }
        let expanded: Vec<_> = fields.into_iter().map(|field| self.expanded(field, &place, depth)).collect();
        if let Some(fields) = expanded.into_iter().collect() {
            lines.push(Line { place, fields });
        }
    }

    fn include(&mut self, key: &str, path: &str, optional: bool, place: &Place, depth: u32, lines: &mut Vec<Line>) {
        if let Some((file, text)) = self.open(key, path, optional, place, depth) {
            self.file(&text, &file, depth + 1, lines);
        }
    }

    /// The field with the words of files in the place of `@file`. `None` if one is of no use, which is reported.
    fn expanded(&mut self, field: Field, place: &Place, depth: u32) -> Option<Field> {
        let mut words = Field::new();
        let mut is_whole = true;
        for token in field {
            let Some(path) = token.list() else {
                words.push(token);
                continue;
            };
            let Some((file, text)) = self.open(&token.text, path, false, place, depth) else {
                is_whole = false;
                continue;
            };
            let mut lines = Vec::new();
            self.file(&text, &file, depth + 1, &mut lines);
            if lines.is_empty() {
                self.report.problem(place, &token.text, ProblemKind::Syntax(Syntax::EmptyList));
                is_whole = false;
            }
            words.extend(lines.into_iter().flat_map(|line| line.fields).flatten());
        }
        is_whole.then_some(words)
    }

    fn open(
        &mut self,
        key: &str,
        path: &str,
        optional: bool,
        place: &Place,
        depth: u32,
    ) -> Option<(Arc<Path>, String)> {
        // Said once: what follows could be a million lines.
        if self.is_full {
            return None;
        }
        if depth >= INCLUDE_DEPTH_MAX {
            self.report.problem(place, key, ProblemKind::Syntax(Syntax::IncludeDepth));
            return None;
        }
        match read_near(self.files, Path::new(path), &place.file) {
            Ok((path, text)) => {
                self.included += 1;
                self.bytes += text.len() as u64;
                self.is_full = self.included > RULE_FILES_MAX || self.bytes > FILE_BYTES_MAX;
                if self.is_full {
                    self.report.problem(place, key, ProblemKind::Syntax(Syntax::RuleFiles));
                    return None;
                }
                Some((path.into(), text))
            }
            Err(e) if optional && e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                self.report.problem(place, key, ProblemKind::Unreadable(e.kind()));
                None
            }
        }
    }
}

const NO_DIRECTORY: ProblemKind = ProblemKind::Unsupported("directories are not read; include their files one by one");

/// A line with those that continue it, as a backslash at its end asks for, in comments too.
fn joined<'t>(first: &'t str, rest: &mut impl Iterator<Item = (u32, &'t str)>) -> Cow<'t, str> {
    let Some(begin) = first.strip_suffix('\\') else {
        return Cow::Borrowed(first);
    };
    let mut line = begin.to_string();
    for (_, next) in rest {
        let Some(more) = next.strip_suffix('\\') else {
            line += next;
            break;
        };
        line += more;
    }
    Cow::Owned(line)
}

/// The fields of a line: a comma keeps one open, also when blanks follow it; in front of a comma they close it.
fn fields(line: &str) -> Result<Vec<Field>, Syntax> {
    let mut fields: Vec<Field> = Vec::new();
    let mut is_open = false;
    let mut rest = line;
    while let Some((token, comma, after)) = token(rest)? {
        match fields.last_mut() {
            Some(field) if is_open => field.push(token),
            _ => fields.push(vec![token]),
        }
        (is_open, rest) = (comma, after);
    }
    Ok(fields)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

/// The next word, whether a comma ends it, and what follows.
fn token(text: &str) -> Result<Option<(Token, bool, &str)>, Syntax> {
    let text = text.trim_start_matches(|c| is_blank(c) || c == ',');
    let mut token = Token { text: String::new(), quoted: false };
    let (mut in_quote, mut was_quote, mut saw_quote) = (false, false, false);
    let (mut comma, mut rest) = (false, "");
    for (at, c) in text.char_indices() {
        match c {
            '#' if !in_quote => break,
            ',' if !in_quote => {
                (comma, rest) = (true, &text[at + 1..]);
                break;
            }
            c if is_blank(c) && !in_quote => {
                rest = &text[at..];
                break;
            }
            '"' => {
                // A doubled quote inside quotes is one.
                if was_quote {
                    token.text.push(c);
                }
                token.quoted |= token.text.is_empty();
                was_quote = in_quote && !was_quote;
                in_quote = !in_quote;
                saw_quote = true;
            }
            c => {
                token.text.push(c);
                was_quote = false;
            }
        }
    }
    if in_quote {
        return Err(Syntax::OpenQuote);
    }
    Ok((saw_quote || !token.text.is_empty()).then_some((token, comma, rest)))
}

/// The word for a message.
pub(super) fn shown(token: &Token) -> String {
    quoted(&token.text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    /// Fields by blanks, words by `|`, quoted ones in `<>`.
    fn shape(line: &str) -> String {
        let word = |t: &Token| if t.quoted { format!("<{}>", t.text) } else { t.text.clone() };
        match fields(line) {
            Ok(fields) => {
                let field = |f: &Field| f.iter().map(word).collect::<Vec<_>>().join("|");
                fields.iter().map(field).collect::<Vec<_>>().join(" ")
            }
            Err(syntax) => format!("{syntax:?}"),
        }
    }

    #[test]
    fn words_as_postgresql_cuts_them() {
        for (line, expected) in [
            ("", ""),
            ("  # all", ""),
            ("local\tall  all trust#x", "local all all trust"),
            ("a,b, c ,d", "a|b|c d"),
            ("a , b", "a b"),
            (",a,,b,", "a|b"),
            ("\"all\" \"a b\" \"a,b\" \"#\"", "<all> <a b> <a,b> <#>"),
            ("\"say \"\"so\"\"\" x", "<say \"so\"> x"),
            ("\"\" \"\"\"\" x", "<> <\"> x"),
            ("a\"ll\" \"a\"ll map=\"a b\"", "all <all> map=a b"),
            ("\"/^a{1,2}$\" /b", "</^a{1,2}$> /b"),
            ("a \"b", "OpenQuote"),
            ("a\r b", "a b"),
        ] {
            assert_eq!(shape(line), expected, "{line}");
        }
    }

    fn read_all(text: &str, files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let files: BTreeMap<PathBuf, String> = files.iter().map(|(p, t)| (p.into(), (*t).to_string())).collect();
        let mut report = Report::new(Path::new("main"));
        let lines = read(text, Path::new("/e/hba").into(), &files, &mut report);
        let show = |l: &Line| {
            let words = l.fields.iter().map(|f| f.iter().map(|t| t.text.as_str()).collect::<Vec<_>>().join("|"));
            format!("{}:{} {}", l.place.file.display(), l.place.line, words.collect::<Vec<_>>().join(" "))
        };
        let problems = report.finish().err().map(|p| p.to_string()).unwrap_or_default();
        (lines.iter().map(show).collect(), problems.lines().map(str::to_string).collect())
    }

    #[test]
    fn lines_go_on_after_a_backslash_and_keep_their_first_number() {
        let (lines, problems) = read_all("a \\\n\\\n b\\\nc\n# x \\\n still\nd\\\n\ne\\", &[]);
        assert_eq!(lines, ["/e/hba:1 a bc", "/e/hba:7 d", "/e/hba:9 e"]);
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn what_is_included_stands_where_it_is_named() {
        let files = [
            ("/e/more", "b @/e/names,z\n"),
            ("/e/names", "x, y # two\n@other\n"),
            ("/e/other", "\"@literal\"\n"),
            ("/e/empty", "# nobody\n"),
        ];
        let (lines, problems) = read_all(
            "a\ninclude more\ninclude_if_exists gone\n\"@x\" @\ninclude gone\ninclude_dir d\nc @empty,@gone\n\"o\nf",
            &files,
        );
        assert_eq!(lines, ["/e/hba:1 a", "/e/more:1 b x|y|@literal|z", "/e/hba:4 @x @", "/e/hba:9 f"]);
        assert_eq!(
            problems,
            [
                "/e/hba:5: include gone: cannot be read: entity not found",
                "/e/hba:6: include_dir d: directories are not read; include their files one by one",
                "/e/hba:7: @empty: the file holds no names",
                "/e/hba:7: @gone: cannot be read: entity not found",
                "/e/hba:8: the quote does not end in this line",
            ]
        );
    }

    #[test]
    fn includes_end() {
        let (_, problems) = read_all("include loop", &[("/e/loop", "include loop\n")]);
        assert_eq!(problems, ["/e/loop:1: include loop: files may include each other 10 levels deep at most"]);
        let (_, problems) = read_all("include twice", &[("/e/twice", "include twice\ninclude twice\n")]);
        let last = "1000 files may be included at most, with 64 MB in all";
        assert!(problems.iter().any(|p| p.ends_with(last)) && problems.len() < 10, "{problems:?}");
        let half = format!("#{}", "x".repeat(40 << 20));
        let (_, problems) = read_all("include h\ninclude h\ninclude h\n", &[("/e/h", &half)]);
        assert_eq!(problems, [format!("/e/hba:2: include h: {last}")]);
    }
}
