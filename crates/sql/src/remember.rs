//! Readings of texts that are sent again and again, if with other values: to look one up takes a fifth of the time that
//! reading takes, or less.

use crate::read::{Reading, read};
use crate::shape::{Shape, head};
use crate::suspects::Suspects;

/// Texts shorter than this are read as quickly as they are looked up, in bytes.
const LEN_MIN: usize = 32;
/// Longer ones are not remembered, in bytes.
const LEN_MAX: usize = 8 << 10;
/// So much of a text, at most, decides about its place, in bytes.
const HEAD_MAX: usize = 256;
/// Where a shape can have its place.
const PLACES: usize = 64;
/// Shapes that are remembered in one place.
const WAYS: usize = 4;
/// So many other texts must come to the place of one that is remembered before it can be replaced. They count from its last
/// use: in a stream of texts that are all of another shape, what comes again stays.
const CREDIT: u8 = 64;

/// Remembers what [`read`] returned for the last texts, each with all those of its shape, which differ from it in numbers and in
/// what stands in strings. What stands in front of a text's first value decides about its place, and it is kept when its place is free and it comes for the second time with no other
/// in between: texts that never come again cost little. At most 3 MB.
#[derive(Clone, Debug)]
pub struct Readings(Box<[Place]>);

#[derive(Clone, Debug, Default)]
struct Place {
    /// Hash of the last text that was not remembered.
    candidate: u64,
    slots: [Slot; WAYS],
}

#[derive(Clone, Debug, Default)]
struct Slot {
    hash: u64,
    credit: u8,
    /// None at first.
    kept: Option<Kept>,
}

#[derive(Clone, Debug)]
struct Kept {
    shape: Shape,
    /// [`Suspects::id`] of those it was read with.
    suspects: u64,
    reading: Reading,
}

impl Default for Readings {
    fn default() -> Self {
        Self(vec![Place::default(); PLACES].into_boxed_slice())
    }
}

impl Readings {
    /// The same as [`read`].
    pub fn read(&mut self, text: &[u8], suspects: Option<&Suspects>) -> Reading {
        if !(LEN_MIN..=LEN_MAX).contains(&text.len()) {
            return read(text, suspects);
        }
        let id = suspects.map_or(0, Suspects::id);
        // What was read with other suspects goes as what does not come any more.
        let hash = hash(&text[..head(text, HEAD_MAX)], id);
        // The upper bits are mixed best.
        let place = &mut self.0[(hash >> 48) as usize % PLACES];
        for slot in place.slots.iter_mut().filter(|slot| slot.hash == hash) {
            if let Some(kept) = &slot.kept
                && kept.suspects == id
                && kept.shape.fits(text)
            {
                slot.credit = CREDIT;
                return kept.reading.clone();
            }
        }
        let reading = read(text, suspects);
        let again = std::mem::replace(&mut place.candidate, hash) == hash;
        match place.slots.iter_mut().find(|slot| slot.credit == 0) {
            Some(slot) if again => {
                let kept = Kept { shape: Shape::of(text), suspects: id, reading: reading.clone() };
                *slot = Slot { hash, credit: CREDIT, kept: Some(kept) };
            }
            _ => place.slots.iter_mut().for_each(|slot| slot.credit = slot.credit.saturating_sub(1)),
        }
        reading
    }
}

/// A quick hash, in two halves that do not wait for each other. Who makes texts with the same one makes them slower only.
fn hash(text: &[u8], seed: u64) -> u64 {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let mut halves = [text.len() as u64, seed];
    let mut mix = |block: &[u8; 16]| {
        halves[0] = (halves[0] ^ word(&block[..8])).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        halves[1] = (halves[1] ^ word(&block[8..])).wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(31);
    };
    text.as_chunks::<16>().0.iter().for_each(&mut mix);
    match text.last_chunk::<16>() {
        // The last bytes once more, whole as well: quicker than those one by one that are left.
        Some(last) => mix(last),
        None => {
            let mut block = [0; 16];
            block[..text.len()].copy_from_slice(text);
            mix(&block);
        }
    }
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

    fn slots(readings: &Readings) -> impl Iterator<Item = &Slot> {
        readings.0.iter().flat_map(|place| &place.slots)
    }

    /// How many are kept.
    fn kept(readings: &Readings) -> usize {
        slots(readings).filter(|slot| slot.kept.is_some()).count()
    }

    /// Whether a text of this shape is kept.
    fn holds(readings: &Readings, text: &str) -> bool {
        slots(readings).filter_map(|slot| slot.kept.as_ref()).any(|kept| kept.shape.fits(text.as_bytes()))
    }

    /// Texts of different shapes.
    fn shapes(from: usize) -> impl Iterator<Item = String> {
        (from..from + 2_000).map(|n| format!("SELECT id, name FROM item_{n} WHERE id = 1"))
    }

    #[test]
    fn a_text_is_kept_when_its_shape_comes_again() {
        let mut readings = Readings::default();
        for (id, expected) in [(7, 0), (81, 1), (9, 1)] {
            let text = format!("SELECT name FROM item WHERE id = {id}");
            readings.read(text.as_bytes(), None);
            assert_eq!(kept(&readings), expected, "{text}");
        }
    }

    #[test]
    fn what_comes_again_stays_in_a_stream_of_new_texts() {
        let mut readings = Readings::default();
        let often = "SELECT often FROM item ORDER BY often LIMIT 10";
        for (n, text) in (0..10).flat_map(|round| shapes(round * 2_000)).enumerate() {
            readings.read(text.as_bytes(), None);
            if n % 10 == 0 {
                readings.read(often.as_bytes(), None);
            }
        }
        assert!(holds(&readings, often));
    }

    #[test]
    fn several_shapes_that_begin_alike_are_kept() {
        let mut readings = Readings::default();
        let texts = [1, 2, 3, 4].map(|len| format!("SELECT * FROM item WHERE id IN ({}0)", "1, ".repeat(len)));
        for text in &texts {
            (0..2 * CREDIT).for_each(|_| drop(readings.read(text.as_bytes(), None)));
        }
        assert!(texts.iter().all(|text| holds(&readings, text)));
    }

    #[test]
    fn what_does_not_come_any_more_makes_room() {
        let mut readings = Readings::default();
        for text in shapes(0).chain(shapes(5_000)) {
            (0..2 * CREDIT).for_each(|_| drop(readings.read(text.as_bytes(), None)));
            assert!(holds(&readings, &text));
        }
        assert!(shapes(0).filter(|text| holds(&readings, text)).count() < PLACES * WAYS / 10);
    }

    #[test]
    fn texts_that_differ_in_one_byte_have_other_places() {
        const LEN: usize = 384;
        let hashes: std::collections::HashSet<_> = (0..LEN)
            .map(|at| {
                let mut text = vec![b' '; LEN];
                text[at] = b'x';
                hash(&text, 0)
            })
            .collect();
        assert_eq!(hashes.len(), LEN);
        let places: std::collections::HashSet<_> = hashes.iter().map(|hash| (hash >> 48) as usize % PLACES).collect();
        assert_eq!(places.len(), PLACES);
    }
}
