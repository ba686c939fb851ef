//! Values of cells: from natural types to PostgreSQL's text form, and from the text form to the binary one. Only the
//! types of [`crate::columns()`] exist.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::columns::Kind;

/// One value in text form; `None` is NULL.
pub(crate) type Cell = Option<String>;

/// A text.
pub(crate) fn text(value: impl Into<String>) -> Cell {
    Some(value.into())
}

/// An int4. What does not fit shows as the largest int4, since a binary result has no room for more.
pub(crate) fn int4(value: impl Into<u64>) -> Cell {
    Some(value.into().min(i32::MAX as u64).to_string())
}

/// A numeric.
pub(crate) fn numeric(value: u64) -> Cell {
    Some(value.to_string())
}

/// A numeric with one decimal place.
pub(crate) fn tenths(value: u64) -> Cell {
    Some(format!("{}.{}", value / 10, value % 10))
}

/// Whole seconds and the microseconds beyond them, in two columns.
pub(crate) fn seconds_and_micros(value: Duration) -> [Cell; 2] {
    [int4(value.as_secs()), int4(value.subsec_micros())]
}

/// `YYYY-MM-DD HH:MM:SS UTC`; empty for `None`, and the epoch for what is before it.
pub(crate) fn time(value: Option<SystemTime>) -> Cell {
    let Some(value) = value else { return text("") };
    let seconds = value.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    text(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC"))
}

/// Year, month and day of a day after 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day ends a year; 719,468 days lie between 0000-03-01 and the epoch,
/// and 146,097 in each 400 years.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, past_new_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + past_new_year, month, day_of_month)
}

/// The binary form of a text form; `None` for a text that the type does not have.
///
/// Source: the types' send functions in PostgreSQL's `src/backend/utils/adt` (`int4send`, `textsend`, `numeric_send`).
pub(crate) fn binary(kind: Kind, text: &str) -> Option<Vec<u8>> {
    match kind {
        Kind::Text => Some(text.as_bytes().to_vec()),
        Kind::Int4 => text.parse::<i32>().ok().map(|n| n.to_be_bytes().to_vec()),
        Kind::Numeric => binary_numeric(text),
    }
}

/// A numeric that is not negative: the number of digits, the weight of the first, sign, scale, and the digits, in base
/// 10,000 from the decimal point outwards. Leading and trailing zero digits are left out.
fn binary_numeric(text: &str) -> Option<Vec<u8>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut decimals = "0".repeat(whole.len().wrapping_neg() % 4) + whole;
    let whole_digits = decimals.len() / 4;
    decimals += fraction;
    decimals += &"0".repeat(fraction.len().wrapping_neg() % 4);
    let mut digits = Vec::new();
    for four in decimals.as_bytes().chunks(4) {
        digits.push(std::str::from_utf8(four).ok()?.parse::<u16>().ok()?);
    }
    let leading = digits.iter().take_while(|&&d| d == 0).count();
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let digits = digits.get(leading..).unwrap_or_default();
    let weight = if digits.is_empty() { 0 } else { whole_digits as i64 - leading as i64 - 1 };
    let head = [digits.len() as i64, weight, 0, fraction.len() as i64];
    let mut out: Vec<u8> = head.into_iter().flat_map(|n| (n as i16).to_be_bytes()).collect();
    out.extend(digits.iter().flat_map(|d| d.to_be_bytes()));
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_calendar_dates() {
        let at = |seconds| time(Some(UNIX_EPOCH + Duration::from_secs(seconds))).unwrap();
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(1_709_251_200), "2024-03-01 00:00:00 UTC");
        assert_eq!(at(1_767_225_599), "2025-12-31 23:59:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(time(None).unwrap(), "");
    }

    #[test]
    fn what_does_not_fit_saturates() {
        assert_eq!(int4(u64::MAX), text("2147483647"));
        assert_eq!(binary(Kind::Int4, "2147483647").unwrap(), [0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(binary(Kind::Int4, "2147483648"), None);
    }

    #[test]
    fn numerics_as_postgresql_sends_them() {
        // As PostgreSQL 15 answers: select encode(numeric_send(…), 'hex').
        for (text, expect) in [
            ("0", &[0u16, 0, 0, 0][..]),
            ("0.0", &[0, 0, 0, 1]),
            ("1", &[1, 0, 0, 0, 1]),
            ("10000", &[1, 1, 0, 0, 1]),
            ("10001", &[2, 1, 0, 0, 1, 1]),
            ("81.3", &[2, 0, 0, 1, 81, 3000]),
            ("0.5", &[1, 0xffff, 0, 1, 5000]),
            ("18446744073709551615", &[5, 4, 0, 0, 1844, 6744, 737, 955, 1615]),
        ] {
            let expect: Vec<u8> = expect.iter().flat_map(|n| n.to_be_bytes()).collect();
            assert_eq!(binary(Kind::Numeric, text).unwrap(), expect, "{text}");
        }
        for bad in ["x", "-1", "1.2.3", "１"] {
            assert_eq!(binary(Kind::Numeric, bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_binary_numeric_has_its_value(n: u64) {
            let bytes = binary(Kind::Numeric, &n.to_string()).unwrap();
            let words: Vec<u16> = bytes.chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect();
            prop_assert_eq!(usize::from(words[0]), words.len() - 4);
            let value: u128 = (words[4..].iter().enumerate())
                .map(|(i, &d)| u128::from(d) * 10_000u128.pow(u32::from(words[1]) - i as u32)).sum();
            prop_assert_eq!(value, u128::from(n));
        }
    }
}
