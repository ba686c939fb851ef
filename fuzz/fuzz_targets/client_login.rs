//! A client's login, in two pieces, under each method, where TLS is offered and where it is not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_auth::{Nonce, ScramServer, Secret};
use pgsluice_session::{AuthMethod, ClientLogin, LoginWant};

fuzz_target!(|input: (u8, u16, Vec<u8>)| {
    let (method, cut, bytes) = input;
    let mut login = if method & 8 == 0 { ClientLogin::default() } else { ClientLogin::offering_tls() };
    let mut out = Vec::new();
    let mut at = 0;
    for end in [usize::from(cut).min(bytes.len()), bytes.len()] {
        loop {
            let Ok((taken, want)) = login.handle(&bytes[at..end], &mut out) else { return };
            at += taken;
            assert!(at <= end);
            match want {
                LoginWant::Method => login.authenticate(chosen(method), &mut out),
                LoginWant::More => break,
                // Whoever begins with TLS has all of that read by TLS.
                LoginWant::Encryption if at < end => return,
                LoginWant::Encryption => login.set_encrypted(),
                LoginWant::Cancel { .. } | LoginWant::Done => return,
            }
        }
    }
});

fn chosen(method: u8) -> AuthMethod {
    let secret = (method & 4 == 0).then(|| Secret::parse("sesame"));
    match method % 4 {
        0 => AuthMethod::Trust,
        1 => AuthMethod::Plain(secret),
        2 => AuthMethod::Md5(secret, [1, 2, 3, 4]),
        _ => {
            let nonce = Nonce::from_entropy([7; pgsluice_auth::NONCE_ENTROPY_LEN]);
            let end_point = (method & 16 != 0).then(|| vec![5; 32]);
            AuthMethod::Scram(Box::new(ScramServer::mock(&[9; 32], b"bob", 4096, nonce).with_end_point(end_point)))
        }
    }
}
