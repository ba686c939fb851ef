//! Whether a text can end a transaction block. Written so that nothing has to be trusted: it looks at bytes, not at tokens.

/// Whether any statement in the text could end a transaction block. False is certain, whatever the settings and the
/// encoding: the text has neither `commit`, `rollback`, `abort` nor `prepare` in it, not even in a string or a longer word,
/// and no `end` where a statement could begin.
pub fn may_end_transaction(text: &[u8]) -> bool {
    (0..text.len()).any(|at| match text[at] | 0x20 {
        b'c' => begins(&text[at..], b"commit"),
        b'r' => begins(&text[at..], b"rollback"),
        b'a' => begins(&text[at..], b"abort"),
        b'p' => begins(&text[at..], b"prepare"),
        b'e' => begins(&text[at..], b"end") && ends_word(text.get(at + 3)) && may_begin_statement(&text[..at]),
        _ => false,
    })
}

fn begins(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Whether a word ends before this byte.
fn ends_word(next: Option<&u8>) -> bool {
    next.is_none_or(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)))
}

/// Whether a statement could begin after these bytes: they are blank, or end with a semicolon or a comment.
fn may_begin_statement(before: &[u8]) -> bool {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0);
    let blank = before.iter().rev().take_while(|byte| space(byte)).count();
    let (before, blank) = before.split_at(before.len() - blank);
    if before.is_empty() || before.ends_with(b";") || before.ends_with(b"*/") {
        return true;
    }
    // The last line with anything on it has a comment that the line's end ends.
    let newline = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let line = before.rsplit(newline).next().unwrap_or_default();
    blank.iter().any(newline) && line.windows(2).any(|pair| pair == b"--")
}
