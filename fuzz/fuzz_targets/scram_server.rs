//! SCRAM with us as the server: two messages of a client's. Nobody gets in without the password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_auth::{Nonce, ScramSecret, ScramServer};

fuzz_target!(|input: (bool, Vec<u8>, Vec<u8>)| {
    let (known, first, last) = input;
    let nonce = Nonce::from_printable("servernonce").expect("printable");
    let mut server = if known {
        ScramServer::new(ScramSecret::derive(b"sesame", b"0123456789abcdef", 1), nonce)
    } else {
        ScramServer::mock(&[9; 32], b"bob", 4096, nonce)
    };
    if server.handle_client_first(&first).is_ok() {
        assert!(server.handle_client_final(&last).is_err() || known);
    }
    if let Ok(text) = std::str::from_utf8(&last) {
        let _ = ScramSecret::parse(text);
    }
});
