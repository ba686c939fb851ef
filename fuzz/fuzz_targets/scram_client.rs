//! SCRAM with us as the client: two messages of a server's. An impostor is not believed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_auth::{Nonce, ScramClient, ScramCredential, ScramKeys};

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (first, last) = input;
    // Keys rather than a password: the iterations are the server's choice, and the work would be ours.
    let credential = ScramCredential::Keys(ScramKeys::derive(b"sesame", b"salt", 1));
    let mut client = ScramClient::new(credential, Nonce::from_printable("clientnonce").expect("printable"));
    let _ = client.client_first();
    if client.handle_server_first(&first).is_ok() {
        let _ = client.handle_server_final(&last);
    }
});
