//! Channel binding of the type `tls-server-end-point` (RFC 5929, section 4): the hash of the server's certificate, so that who
//! stands in between with another certificate cannot pass an exchange on.
//!
//! Source: `be_tls_get_certificate_hash` in `src/backend/libpq/be-secure-openssl.c`.

use sha2::{Digest, Sha256, Sha384, Sha512};

/// The type's name in a gs2-header.
pub(crate) const END_POINT: &str = "tls-server-end-point";

/// Tags of ASN.1 (X.690).
const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;

/// Signature algorithms by the hash they sign: 1.2.840.113549.1.1.x (RSA) and 1.2.840.10045.4.x (ECDSA), as ASN.1 encodes them.
const SHA_256: [&[u8]; 5] = [
    // RSA with MD5 and SHA-1, ECDSA with SHA-1: SHA-256 takes their place.
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
];
const SHA_384: [&[u8]; 2] = [&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12], &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]];
const SHA_512: [&[u8]; 2] = [&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13], &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4]];

/// The data of channel binding for a server with this certificate (DER): its hash, by the algorithm that its signature uses. `None`
/// for one whose algorithm does not say that (Ed25519, RSASSA-PSS).
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = signature_algorithm(certificate)?;
    if SHA_256.contains(&algorithm) {
        Some(Sha256::digest(certificate).to_vec())
    } else if SHA_384.contains(&algorithm) {
        Some(Sha384::digest(certificate).to_vec())
    } else if SHA_512.contains(&algorithm) {
        Some(Sha512::digest(certificate).to_vec())
    } else {
        None
    }
}

/// Certificate ::= SEQUENCE { what is signed, SEQUENCE { algorithm OBJECT IDENTIFIER, … }, signature }
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (whole, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(whole, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    element(algorithm, OBJECT).map(|(id, _)| id)
}

/// The content of the element at the front, and what is behind it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, first, rest @ ..] = bytes else { return None };
    let (len, rest) = match first {
        short @ 0..=0x7f => (usize::from(*short), rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
            (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    (*found == tag).then_some(rest.split_at_checked(len)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As much of a certificate as is looked at.
    fn certificate(algorithm: &[u8], signed: usize) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| {
            let len = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82][..], &len, content].concat()
        };
        let algorithm = wrap(SEQUENCE, &[&[OBJECT, u8::try_from(algorithm.len()).unwrap()], algorithm].concat());
        wrap(SEQUENCE, &[wrap(SEQUENCE, &vec![7; signed]), algorithm, vec![3, 1, 0]].concat())
    }

    #[test]
    fn the_hash_is_the_one_that_signs() {
        for (algorithm, len) in [(SHA_256[3], 32), (SHA_256[1], 32), (SHA_384[1], 48), (SHA_512[0], 64)] {
            let data = end_point(&certificate(algorithm, 300)).unwrap();
            assert_eq!(data.len(), len);
        }
        assert_eq!(end_point(&certificate(&[0x2b, 0x65, 0x70], 300)), None, "Ed25519");
    }

    #[test]
    fn what_is_no_certificate_has_none() {
        let whole = certificate(SHA_256[3], 20);
        // But for what is not looked at.
        let looked_at = whole.len() - 3;
        for len in 0..looked_at {
            assert_eq!(end_point(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(end_point(b"\x30\x84\xff\xff\xff\xff"), None);
        assert_eq!(end_point(b"\x30\x80\x30\x00"), None);
    }
}
