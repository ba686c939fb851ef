//! Reads the bodies of frontend messages that the wire crate shows only the front of: Bind to its end, and Execute.

use pgsluice_wire::{Bind, Malformed};

/// The part of a Bind behind its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BindTail {
    /// Number of parameter values.
    pub(crate) parameters: u16,
    /// Result format codes, as they came.
    pub(crate) formats: Vec<u16>,
}

/// Reads a whole Bind.
pub(crate) fn bind(body: &[u8]) -> Result<(Bind<'_>, BindTail), Malformed> {
    let bad = Malformed { message: "Bind" };
    let front = Bind::read(body).ok_or(bad)?;
    let tail = bind_tail(&body[front.names_len()..]).ok_or(bad)?;
    Ok((front, tail))
}

fn bind_tail(rest: &[u8]) -> Option<BindTail> {
    let (_parameter_formats, rest) = u16_list(rest)?;
    let (parameters, mut rest) = u16_be(rest)?;
    for _ in 0..parameters {
        let (len, values) = rest.split_first_chunk::<4>()?;
        rest = match i32::from_be_bytes(*len) {
            -1 => values,
            len => values.get(usize::try_from(len).ok()?..)?,
        };
    }
    let (formats, rest) = u16_list(rest)?;
    rest.is_empty().then_some(BindTail { parameters, formats })
}

/// Portal and row limit of a whole Execute; 0 is no limit, and so is a negative number, as in PostgreSQL.
pub(crate) fn execute(body: &[u8]) -> Result<(&[u8], usize), Malformed> {
    let parts = body.split_last_chunk::<4>().and_then(|(front, max)| match front.split_last() {
        Some((0, portal)) if !portal.contains(&0) => Some((portal, i32::from_be_bytes(*max))),
        _ => None,
    });
    let (portal, max) = parts.ok_or(Malformed { message: "Execute" })?;
    Ok((portal, usize::try_from(max).unwrap_or(0)))
}

/// The string that is a whole body: the text of a Query.
pub(crate) fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    match body.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Malformed { message: "Query" }),
    }
}

fn u16_be(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (n, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*n), rest))
}

fn u16_list(bytes: &[u8]) -> Option<(Vec<u16>, &[u8])> {
    let (count, rest) = u16_be(bytes)?;
    let (list, rest) = rest.split_at_checked(usize::from(count) * 2)?;
    Some((list.chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_read_to_its_end_and_no_further() {
        // One parameter format, two values (NULL and "ab"), two result formats.
        let body = b"p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x02ab\0\x02\0\0\0\x01";
        let (front, tail) = bind(body).unwrap();
        assert_eq!((front.portal, front.statement), (&b"p"[..], &b"s"[..]));
        assert_eq!(tail, BindTail { parameters: 2, formats: vec![0, 1] });
        for cut in 0..body.len() {
            assert!(bind(&body[..cut]).is_err(), "cut at {cut}");
        }
        assert!(bind(&[&body[..], b"x"].concat()).is_err());
        assert!(bind(b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0").is_err(), "a length of -2");
    }

    #[test]
    fn executes_and_queries() {
        assert_eq!(execute(b"c1\0\0\0\0\x05"), Ok((&b"c1"[..], 5)));
        assert_eq!(execute(b"\0\xff\xff\xff\xff"), Ok((&b""[..], 0)));
        for bad in [&b""[..], b"\0\0\0\0", b"a\0\0\0\0", b"a\0b\0\0\0\0\0", b"a\0\0\0\0\x01\x01"] {
            assert!(execute(bad).is_err(), "{bad:?}");
        }
        assert_eq!(query(b"show\0"), Ok(&b"show"[..]));
        for bad in [&b""[..], b"show", b"a\0b\0"] {
            assert!(query(bad).is_err(), "{bad:?}");
        }
    }
}
