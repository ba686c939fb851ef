//! Readings of texts that are sent again and again: to look one up takes a fifth of the time that reading takes, or less.

use crate::read::{Reading, read};
use crate::suspects::Suspects;

/// Texts shorter than this are read as quickly as they are looked up, in bytes.
const LEN_MIN: usize = 32;
/// Longer ones are not remembered, in bytes.
const LEN_MAX: usize = 8 << 10;
/// Texts that are remembered at most.
const SLOTS: usize = 256;
/// So many other texts must come to the place of one that is remembered before it can be replaced. They count from its last
/// use: in a stream of texts with values in them, each of them new, what comes again stays.
const CREDIT: u8 = 16;

/// Remembers what [`read`] returned. A text has one place, and is kept when it comes for the second time with no other of
/// its place in between: texts that are never the same twice cost little. At most 2 MB.
#[derive(Clone, Debug)]
pub struct Readings(Box<[Slot]>);

#[derive(Clone, Debug, Default)]
struct Slot {
    /// Of the text that is kept.
    hash: u64,
    /// Of the last text that was not.
    candidate: u64,
    credit: u8,
    /// Empty if there is none.
    text: Box<[u8]>,
    /// [`Suspects::id`] of those it was read with.
    suspects: u64,
    reading: Reading,
}

impl Default for Readings {
    fn default() -> Self {
        Self(vec![Slot::default(); SLOTS].into_boxed_slice())
    }
}

impl Readings {
    /// The same as [`read`].
    pub fn read(&mut self, text: &[u8], suspects: Option<&Suspects>) -> Reading {
        if !(LEN_MIN..=LEN_MAX).contains(&text.len()) {
            return read(text, suspects);
        }
        let hash = hash(text);
        // The upper bits are mixed best.
        let slot = &mut self.0[(hash >> 48) as usize % SLOTS];
        let id = suspects.map_or(0, Suspects::id);
        if slot.hash == hash && slot.suspects == id && *slot.text == *text {
            slot.credit = CREDIT;
            return slot.reading.clone();
        }
        let reading = read(text, suspects);
        if slot.hash == hash || (slot.candidate == hash && slot.credit == 0) {
            let candidate = slot.candidate;
            *slot = Slot { hash, candidate, credit: CREDIT, text: text.into(), suspects: id, reading: reading.clone() };
        } else {
            slot.credit = slot.credit.saturating_sub(1);
            slot.candidate = hash;
        }
        reading
    }
}

/// A quick hash of 16 bytes or more, in two halves that do not wait for each other. Who makes texts with the same one makes
/// them slower only.
fn hash(text: &[u8]) -> u64 {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let mut halves = [text.len() as u64, 0];
    let mut mix = |block: &[u8; 16]| {
        halves[0] = (halves[0] ^ word(&block[..8])).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        halves[1] = (halves[1] ^ word(&block[8..])).wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(31);
    };
    text.as_chunks::<16>().0.iter().for_each(&mut mix);
    // The last bytes once more, whole as well: quicker than those one by one that are left.
    text.last_chunk::<16>().into_iter().for_each(mix);
    (halves[0] ^ halves[1].rotate_left(17)).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of every length around the limits, of few kinds, in an order that makes them meet.
    fn texts() -> Vec<Vec<u8>> {
        let beginnings = ["SELECT 1", "SET app.tenant = 'x'", "SELECT touch()", "CREATE TEMP TABLE t AS SELECT 1"];
        let lengths = [LEN_MIN - 1, LEN_MIN, LEN_MIN + 7, 1_000, LEN_MAX, LEN_MAX + 1];
        let all = lengths.iter().flat_map(|len| beginnings.map(|text| format!("{text:<len$}").into_bytes()));
        all.collect()
    }

    #[test]
    fn what_is_remembered_is_what_is_read() {
        let source = b"BEGIN PERFORM set_config('a.b', 'c', false); END".as_slice();
        let suspects = Suspects::from_rows([[b"plpgsql".as_slice(), b"touch", source]]);
        let others = Suspects::from_rows([[b"plpgsql".as_slice(), b"other", source]]);
        let mut readings = Readings::default();
        for _ in 0..4 {
            for text in texts() {
                for known in [None, Some(&suspects), Some(&suspects), Some(&others), Some(&Suspects::default())] {
                    assert_eq!(readings.read(&text, known), read(&text, known), "{}", String::from_utf8_lossy(&text));
                }
            }
        }
    }

    #[test]
    fn a_text_is_kept_when_it_comes_again() {
        let mut readings = Readings::default();
        let kept = |readings: &Readings| readings.0.iter().filter(|slot| !slot.text.is_empty()).count();
        let text = format!("SELECT {:>LEN_MIN$}", 1).into_bytes();
        readings.read(&text, None);
        assert_eq!(kept(&readings), 0);
        readings.read(&text, None);
        assert_eq!(kept(&readings), 1);
    }

    #[test]
    fn what_comes_again_stays_in_a_stream_of_new_texts() {
        let mut readings = Readings::default();
        let often = format!("SELECT {:>LEN_MIN$}", "often").into_bytes();
        for n in 0..20_000 {
            readings.read(format!("SELECT * FROM item WHERE id = {n:>9}").as_bytes(), None);
            if n % 10 == 0 {
                readings.read(&often, None);
            }
        }
        assert!(readings.0.iter().any(|slot| *slot.text == *often));
    }

    #[test]
    fn what_does_not_come_any_more_makes_room() {
        let mut readings = Readings::default();
        let texts = |from: usize| (from..from + 2_000).map(|n| format!("SELECT * FROM item WHERE id = {n:>9}"));
        let held = |readings: &Readings, text: &str| readings.0.iter().any(|slot| *slot.text == *text.as_bytes());
        for text in texts(0).chain(texts(5_000)) {
            (0..40).for_each(|_| drop(readings.read(text.as_bytes(), None)));
            assert!(held(&readings, &text));
        }
        assert!(texts(0).filter(|text| held(&readings, text)).count() < SLOTS / 10);
    }

    #[test]
    fn texts_that_differ_in_one_byte_have_other_places() {
        const LEN: usize = 384;
        let hashes: std::collections::HashSet<_> = (0..LEN)
            .map(|at| {
                let mut text = vec![b' '; LEN];
                text[at] = b'x';
                hash(&text)
            })
            .collect();
        assert_eq!(hashes.len(), LEN);
        let places: std::collections::HashSet<_> = hashes.iter().map(|hash| (hash >> 48) as usize % SLOTS).collect();
        assert!(places.len() > SLOTS / 2, "{}", places.len());
    }
}
