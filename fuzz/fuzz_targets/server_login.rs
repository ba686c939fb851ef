//! Our login at a server that sends anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_auth::{NONCE_ENTROPY_LEN, Nonce, Secret};
use pgsluice_session::{ServerCredential, ServerLogin};
use pgsluice_wire::PROTOCOL_3_2;

fuzz_target!(|input: (bool, u16, Vec<u8>)| {
    let (known, cut, bytes) = input;
    let credential =
        if known { ServerCredential::Secret(Secret::parse("sesame"), None) } else { ServerCredential::None };
    let nonce = Nonce::from_entropy([7; NONCE_ENTROPY_LEN]);
    let mut out = Vec::new();
    let mut login = ServerLogin::new(PROTOCOL_3_2, ("bob", "db"), std::iter::empty(), (credential, nonce), &mut out);
    let mut at = 0;
    for end in [usize::from(cut).min(bytes.len()), bytes.len()] {
        match login.handle(&bytes[at..end], &mut out) {
            Ok((taken, None)) => at += taken,
            Ok((_, Some(server))) => return assert!(server.is_ready()),
            Err(failure) => return drop(failure.refusal().text()),
        }
        assert!(at <= end);
    }
});
