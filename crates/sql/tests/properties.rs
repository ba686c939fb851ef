//! What holds of every text. The fuzz target `sql` asks the same of bytes.

use pgsluice_sql::{Effects, Readings, may_end_transaction, read};
use proptest::prelude::*;

/// What texts are made of: all that opens or closes something, and words with and without a meaning.
const PIECES: [&str; 44] = [
    " ",
    "\n",
    ";",
    "'",
    "''",
    "\"",
    "\\",
    "\\'",
    "$$",
    "$a$",
    "$1",
    "$",
    "/*",
    "*/",
    "--",
    "(",
    ")",
    ",",
    ".",
    "=",
    "E'",
    "U&'",
    "U&\"",
    "B'",
    "e",
    "\u{e9}",
    "1",
    "set",
    "reset",
    "local",
    "app.x",
    "set_config('a.b',",
    "update",
    "temp",
    "create",
    "into",
    "execute",
    "commit",
    "end",
    "prepare",
    "transaction",
    "select",
    "pg_temp",
    "listen",
];

fn texts() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&PIECES[..]), 0..14).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn space_and_comments_around_change_nothing(text in texts()) {
        let plain = read(&text, None);
        prop_assert_eq!(&read(&[b"/* x */ -- y\n", &text[..]].concat(), None), &plain);
        prop_assert_eq!(&read(&[&text[..], b"\n-- x\n"].concat(), None), &plain);
    }

    #[test]
    fn two_statements_do_what_each_does(one in texts(), other in texts()) {
        let (first, second) = (read(&one, None), read(&other, None));
        // What is opaque may have no end.
        if first.effects.contains(Effects::OPAQUE) {
            return Ok(());
        }
        let both = read(&[&one[..], b"\n;", &other[..]].concat(), None);
        prop_assert!(both.effects.contains(first.effects | second.effects), "{both:?}, {first:?}, {second:?}");
        let found = |name| both.custom.contains(name);
        prop_assert!(first.custom.iter().chain(&second.custom).all(found), "{both:?}");
    }

    #[test]
    fn what_ends_a_transaction_may_end_one(text in texts()) {
        // Of the words that begin such statements, all but these end one.
        let effects = read(&text, None).effects;
        prop_assert!(!effects.contains(Effects::TRANSACTION) || may_end_transaction(&text));
    }

    #[test]
    fn a_text_with_other_values_is_read_as_it_would_be_anew(
        text in texts(),
        at in any::<prop::sample::Index>(),
        piece in prop::sample::select(&PIECES[..]),
        number in 0_u32..1000,
    ) {
        // Long enough to be remembered.
        let padded = |text: &[u8]| [text, &b" ".repeat(32)].concat();
        let mut readings = Readings::default();
        for _ in 0..3 {
            prop_assert_eq!(readings.read(&padded(&text), None), read(&padded(&text), None));
        }
        let (before, behind) = text.split_at(at.index(text.len() + 1));
        let inserted = [before, piece.as_bytes(), behind].concat();
        let removed = [before, behind.get(1..).unwrap_or_default()].concat();
        let digits = String::from_utf8_lossy(&text).replace('1', &number.to_string()).into_bytes();
        for other in [inserted, removed, digits] {
            let other = padded(&other);
            prop_assert_eq!(readings.read(&other, None), read(&other, None), "{}", String::from_utf8_lossy(&other));
        }
    }
}
