//! SQL texts: what a reader must never lose, whatever stands around a statement.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_sql::{CUSTOM_MAX, Effects, Readings, Suspects, may_end_transaction, read};

const KINDS: [&[u8]; 6] = [b"sql", b"plpgsql", b"refers", b"table", b"trigger", b"always"];

fuzz_target!(|text: &[u8]| {
    let reading = read(text, None);
    assert!(reading.custom.len() <= CUSTOM_MAX);
    assert!(!reading.effects.contains(Effects::SUSPECT));
    assert!(!reading.effects.contains(Effects::TRANSACTION) || may_end_transaction(text) || begins_one(text));

    assert_eq!(read(&[b" /* x */ -- y\n", text].concat(), None), reading);
    assert_eq!(read(&[text, b"\n-- x\n"].concat(), None), reading);

    let (one, other) = text.split_at(text.len() / 2);
    let (first, second) = (read(one, None), read(other, None));
    // What is opaque may have no end, and a NUL ends everything.
    if !first.effects.contains(Effects::OPAQUE) && !one.contains(&0) {
        let both = read(&[one, b"\n;", other].concat(), None);
        assert!(both.effects.contains(first.effects | second.effects));
        assert!(both.effects.contains(Effects::OPAQUE) || second.custom.iter().all(|name| both.custom.contains(name)));
    }

    let lines = text.split(|byte| *byte == b'\n');
    let rows = lines
        .enumerate()
        .map(|(n, line)| [KINDS[n % KINDS.len()], line.split(|b| *b == b' ').next().unwrap_or(line), line]);
    let suspects = Suspects::from_rows(rows);
    assert_eq!(
        suspects.is_empty(),
        suspects.names().next().is_none() && !suspects.concern_writes() && !suspects.concern_all()
    );
    let watched = read(text, Some(&suspects));
    // A function's name can say that it calls nextval, or is suspect; nothing else, and it takes nothing back.
    let told = Effects::SUSPECT | Effects::SEQUENCE.without(reading.effects);
    assert_eq!((watched.effects.without(told), watched.custom), (reading.effects, reading.custom));

    // The halves in turn, and the one with bytes of the other: of one shape or not, remembered or not.
    let mut readings = Readings::default();
    let mixed = one.iter().zip(other).map(|(a, b)| if b.is_ascii_alphanumeric() { *b } else { *a }).collect::<Vec<_>>();
    for half in [one, one, other, other, &mixed, one, other] {
        let padded = [half, &b" ".repeat(32)].concat();
        assert_eq!(readings.read(&padded, None), read(&padded, None));
    }
});

/// Whether a word is in the text that begins a transaction, or part of one, and ends none.
fn begins_one(text: &[u8]) -> bool {
    let text = text.to_ascii_lowercase();
    ["begin", "start", "savepoint", "release"]
        .iter()
        .any(|word| text.windows(word.len()).any(|part| part == word.as_bytes()))
}
