//! SASLprep of passwords, with PostgreSQL's deviations. It is not the profile of RFC 4013: PostgreSQL looks for
//! prohibited characters *before* normalization and keeps the raw bytes where the profile would refuse, and a password
//! must hash here exactly as it did there.
//!
//! The tables are those of RFC 3454 but for direction, where today's Unicode stands in for Unicode 3.2. The two differ
//! for Braille and some 90 rarer characters, and that matters only in a password that has right-to-left letters as well.
//!
//! Source: `src/common/saslprep.c` (pg_saslprep).

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// Bytes that normalization makes of a character at most, which is what it makes of U+FDFA.
const NFKC_BYTES: usize = 33;

/// The bytes of `password` that are hashed: normalized where possible, as they came where it is not valid UTF-8 or
/// holds a prohibited character.
pub(crate) fn prepare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = std::str::from_utf8(password).ok().filter(|_| !password.is_ascii());
    let normalized = text.and_then(normalize);
    Zeroizing::new(normalized.map_or_else(|| password.to_vec(), String::into_bytes))
}

/// Steps 1 to 4 of RFC 3454, section 2; `None` if the text is empty after mapping or prohibited.
fn normalize(text: &str) -> Option<String> {
    // Room enough from the start: a buffer that grows leaves a copy behind.
    let mut mapped = Zeroizing::new(Vec::with_capacity(text.len()));
    mapped.extend(text.chars().filter_map(map));
    let allowed = !mapped.is_empty() && !mapped.iter().copied().any(is_prohibited) && has_one_direction(&mapped);
    allowed.then(|| {
        let mut normalized = String::with_capacity(mapped.len() * NFKC_BYTES);
        normalized.extend(mapped.iter().copied().nfkc());
        normalized
    })
}

fn map(c: char) -> Option<char> {
    // U+200B is in both tables; PostgreSQL looks into this one first.
    if tables::non_ascii_space_character(c) {
        return Some(' ');
    }
    (!tables::commonly_mapped_to_nothing(c)).then_some(c)
}

/// Tables C.1.2 to C.9 and A.1 of RFC 3454 (RFC 4013, sections 2.3 and 2.5).
fn is_prohibited(c: char) -> bool {
    tables::non_ascii_space_character(c)
        || tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

/// RFC 3454, section 6: right-to-left text must begin and end so, and hold nothing left-to-right.
fn has_one_direction(text: &[char]) -> bool {
    if !text.iter().copied().any(tables::bidi_r_or_al) {
        return true;
    }
    let ends = [text.first(), text.last()];
    ends.into_iter().flatten().copied().all(tables::bidi_r_or_al) && !text.iter().copied().any(tables::bidi_l)
}
