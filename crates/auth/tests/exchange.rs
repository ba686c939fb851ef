//! Both roles against each other, and each against a peer that lies, stammers or babbles.

use pgsluice_auth::{
    Blame, CLIENT_MESSAGE_MAX, ChannelBinding, Fault, ITERATIONS_MAX, MECHANISM, MECHANISM_PLUS, Nonce,
    SERVER_MESSAGE_MAX, ScramClient, ScramCredential, ScramError, ScramKeys, ScramSecret, ScramServer, Secret,
    verify_plain,
};
use proptest::prelude::*;

const SALT: &[u8] = b"0123456789abcdef";

fn nonce(fill: u8) -> Nonce {
    Nonce::from_entropy([fill; 18])
}

fn password(bytes: &[u8]) -> ScramCredential {
    ScramCredential::Password { password: bytes.to_vec(), known: None }
}

fn new_server() -> ScramServer {
    ScramServer::new(ScramSecret::derive(b"pencil", SALT, 2), nonce(2))
}

fn new_client() -> ScramClient {
    ScramClient::new(password(b"pencil"), nonce(1))
}

/// Runs the first three messages; returns the client-final-message.
fn challenge(client: &mut ScramClient, server: &mut ScramServer) -> Result<Vec<u8>, ScramError> {
    let first = server.handle_client_first(&client.client_first())?;
    client.handle_server_first(&first)
}

fn run(client: &mut ScramClient, server: &mut ScramServer) -> Result<(), ScramError> {
    let last = challenge(client, server)?;
    client.handle_server_final(&server.handle_client_final(&last)?)
}

#[test]
fn the_keys_a_client_proved_open_another_server_with_the_same_salt() {
    let (mut client, mut server) = (new_client(), new_server());
    run(&mut client, &mut server).expect("right password");
    let keys = server.keys().expect("accepted").clone();
    assert_eq!(keys, ScramKeys::derive(b"pencil", SALT, 2));
    let mut passing = ScramClient::new(ScramCredential::Keys(keys), nonce(3));
    run(&mut passing, &mut new_server()).expect("the same keys");
    assert!(passing.is_verified() && passing.salted_keys().is_none());
}

#[test]
fn known_keys_are_used_only_where_they_fit() {
    let mut client = new_client();
    run(&mut client, &mut new_server()).expect("right password");
    let known = client.salted_keys().expect("verified").clone();
    // A wrong password shows which of the two was used.
    let with_known = || {
        let credential = ScramCredential::Password { password: b"wrong".to_vec(), known: Some(known.clone()) };
        ScramClient::new(credential, nonce(4))
    };
    run(&mut with_known(), &mut new_server()).expect("known keys fit");
    for (salt, iterations) in [(SALT, 3), (b"another salt".as_slice(), 2)] {
        let secret = ScramSecret::derive(b"pencil", salt, iterations);
        let mut server = ScramServer::new(secret, nonce(5));
        assert_eq!(run(&mut with_known(), &mut server), Err(ScramError::InvalidProof));
    }
}

#[test]
fn a_mock_exchange_looks_like_a_wrong_password() {
    let (key, user) = ([7; 32], b"nobody");
    let mut mock = ScramServer::mock(&key, user, 4096, nonce(2));
    let mut real = ScramServer::new(ScramSecret::derive(b"pencil", SALT, 4096), nonce(2));
    let first = new_client().client_first();
    let (shown, genuine) = (mock.handle_client_first(&first).unwrap(), real.handle_client_first(&first).unwrap());
    assert_eq!(shown.len(), genuine.len());
    let mut client = ScramClient::new(password(b"wrong"), nonce(1));
    let last = client.handle_server_first(&shown).unwrap();
    assert_eq!(mock.handle_client_final(&last), Err(ScramError::InvalidProof));
    let mut client = ScramClient::new(password(b"wrong"), nonce(1));
    let last = client.handle_server_first(&genuine).unwrap();
    assert_eq!(real.handle_client_final(&last), Err(ScramError::InvalidProof));
    assert!(mock.keys().is_none() && real.keys().is_none());
}

#[test]
fn a_mock_salt_is_stable_for_a_user_and_differs_between_users_and_processes() {
    let first = |key: u8, user: &[u8]| {
        ScramServer::mock(&[key; 32], user, 4096, nonce(2)).handle_client_first(b"n,,n=,r=x").unwrap()
    };
    assert_eq!(first(1, b"ann"), first(1, b"ann"));
    assert_ne!(first(1, b"ann"), first(1, b"bob"));
    assert_ne!(first(1, b"ann"), first(2, b"ann"));
}

#[test]
fn a_client_that_could_bind_must_repeat_that_it_said_so() {
    let last_of = |header: &str, binding: &str| {
        let mut server = new_server();
        let first = server.handle_client_first(format!("{header},,n=,r=abc").as_bytes()).unwrap();
        let nonces = String::from_utf8(first).unwrap().split(',').next().unwrap().to_owned();
        let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        server.handle_client_final(format!("c={binding},{nonces},p={proof}").as_bytes()).unwrap_err()
    };
    assert_eq!(last_of("n", "biws"), ScramError::InvalidProof);
    assert_eq!(last_of("y", "eSws"), ScramError::InvalidProof);
    assert_eq!(last_of("n", "eSws"), ScramError::BindingMismatch);
    assert_eq!(last_of("y", "biws"), ScramError::BindingMismatch);
    assert_eq!(last_of("n", ""), ScramError::BindingMismatch);
    assert_eq!(last_of("n", "biws="), ScramError::BindingMismatch);
}

/// A client and a server that each know a certificate, over the mechanism that the client chooses.
fn bound(client: ChannelBinding, server: Option<&[u8]>, mechanism: &str) -> Result<(), ScramError> {
    let mut client = new_client().with_binding(client);
    let mut server = new_server().with_end_point(server.map(<[u8]>::to_vec));
    assert!(server.choose(mechanism.as_bytes()), "{mechanism} was offered");
    run(&mut client, &mut server)
}

#[test]
fn a_channel_is_bound_where_both_can() {
    let by = |data: &[u8]| ChannelBinding::EndPoint(data.to_vec());
    assert_eq!(bound(by(b"hash"), Some(b"hash"), MECHANISM_PLUS), Ok(()));
    assert_eq!(bound(ChannelBinding::None, Some(b"hash"), MECHANISM), Ok(()), "who cannot does not have to");
    assert_eq!(bound(ChannelBinding::NotOffered, None, MECHANISM), Ok(()));
    assert_eq!(new_server().mechanisms(), [MECHANISM]);
    assert_eq!(new_server().with_end_point(Some(vec![1])).mechanisms(), [MECHANISM_PLUS, MECHANISM]);
    assert!(!new_server().choose(MECHANISM_PLUS.as_bytes()), "not offered without TLS");
    assert!(!new_server().with_end_point(Some(vec![1])).choose(b"PLAIN"));
}

#[test]
fn who_stands_in_between_is_noticed() {
    let by = |data: &[u8]| ChannelBinding::EndPoint(data.to_vec());
    assert_eq!(bound(by(b"another's"), Some(b"ours"), MECHANISM_PLUS), Err(ScramError::BindingMismatch));
    assert_eq!(bound(ChannelBinding::NotOffered, Some(b"ours"), MECHANISM), Err(ScramError::BindingDowngraded));
    // And who does not know what a mechanism is.
    assert_eq!(bound(ChannelBinding::None, Some(b"ours"), MECHANISM_PLUS), Err(ScramError::BindingMissing));
    assert_eq!(bound(by(b"ours"), Some(b"ours"), MECHANISM), Err(ScramError::BindingUnsupported));
    let mut server = new_server().with_end_point(Some(vec![1]));
    assert!(server.choose(MECHANISM_PLUS.as_bytes()));
    assert_eq!(server.handle_client_first(b"p=tls-unique,,n=,r=a"), Err(ScramError::BindingUnsupported));
}

#[test]
fn malformed_client_first_messages_are_named() {
    use ScramError::*;
    let expected = |expected, found| UnexpectedAttribute { expected, found };
    let bad_nonce = |fault| BadValue { attribute: b'r', fault };
    let cases: [(&[u8], ScramError); 25] = [
        (b"", Empty),
        (b"n,,n=,r=a\0b", EmbeddedNul),
        (b"x,,n=,r=a", BadBindingFlag { found: Some(b'x') }),
        (b"\xff", BadBindingFlag { found: Some(0xff) }),
        (b"n", BadBindingFlag { found: None }),
        (b"nn,,n=,r=a", BadBindingFlag { found: Some(b'n') }),
        (b"p=tls-server-end-point,,n=,r=a", BindingUnsupported),
        (b"n,a=root,n=,r=a", AuthorizationIdentity),
        (b"n,x,n=,r=a", expected(b',', Some(b'x'))),
        (b"n,", expected(b',', None)),
        (b"n,,", expected(b'n', None)),
        (b"n,,m=x,n=,r=a", MandatoryExtension),
        (b"n,,n=u,m=x,r=a", MandatoryExtension),
        (b"n,,r=a", expected(b'n', Some(b'r'))),
        (b"n,,n", MissingEquals { attribute: b'n' }),
        (b"n,,n=u", expected(b'r', None)),
        (b"n,,n=u,,r=a", expected(b'r', Some(b','))),
        (b"n,,n=u,r", MissingEquals { attribute: b'r' }),
        (b"n,,n=u,ra", MissingEquals { attribute: b'r' }),
        (b"n,,n=u,r=", bad_nonce(Fault::WrongLength)),
        (b"n,,n=u,r=a b", bad_nonce(Fault::NotPrintable)),
        (b"n,,n=u,r=\xc3\xa9", bad_nonce(Fault::NotPrintable)),
        (b"n,,n=u,r=a,1=x", expected(b'x', Some(b'1'))),
        (b"n,,n=u,r=a,x", MissingEquals { attribute: b'x' }),
        (b"n,,n=u,r=a,,", expected(b'x', Some(b','))),
    ];
    for (message, error) in cases {
        let mut server = new_server();
        assert_eq!(server.handle_client_first(message), Err(error), "{}", message.escape_ascii());
        assert_eq!(server.handle_client_first(b"n,,n=,r=a"), Err(OutOfOrder), "an error ends the exchange");
    }
    for message in [b"n,,n=,r=a".as_slice(), b"y,,n=\xff\xfe,r=a", b"n,,n=u,r=a,x=1,Y=", b"n,,n=u,r=a=b"] {
        assert!(new_server().handle_client_first(message).is_ok(), "{}", message.escape_ascii());
    }
}

#[test]
fn malformed_client_final_messages_are_named() {
    use ScramError::*;
    let proof = |fault| BadValue { attribute: b'p', fault };
    let cases: [(&str, ScramError); 13] = [
        ("", Empty),
        ("c=biws\0", EmbeddedNul),
        ("r=R,c=biws,p=P", UnexpectedAttribute { expected: b'c', found: Some(b'r') }),
        ("c", MissingEquals { attribute: b'c' }),
        ("c=biws", UnexpectedAttribute { expected: b'r', found: None }),
        ("c=biws,r=R", UnexpectedAttribute { expected: b'p', found: None }),
        ("c=biws,r=R,x=1", UnexpectedAttribute { expected: b'p', found: None }),
        ("c=biws,r=R,p", MissingEquals { attribute: b'p' }),
        ("c=biws,r=R,p=!", proof(Fault::NotBase64)),
        ("c=biws,r=R,p=", proof(Fault::WrongLength)),
        ("c=biws,r=R,p=AAAA", proof(Fault::WrongLength)),
        ("c=biws,r=R,p=P,x=1", TrailingBytes),
        ("c=biws,r=RR,p=P", NonceMismatch),
    ];
    for (message, error) in cases {
        let mut server = new_server();
        let first = String::from_utf8(server.handle_client_first(b"n,,n=,r=abc").unwrap()).unwrap();
        let nonces = first[2..].split(',').next().unwrap();
        let message = message.replace('P', "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").replace('R', nonces);
        assert_eq!(server.handle_client_final(message.as_bytes()), Err(error), "{message}");
        assert!(server.keys().is_none());
    }
}

#[test]
fn malformed_server_first_messages_are_named() {
    use ScramError::*;
    let bad = |attribute, fault| BadValue { attribute, fault };
    let cases: [(&str, ScramError); 18] = [
        ("", Empty),
        ("m=x,r=Nx,s=AAAA,i=1", MandatoryExtension),
        ("e=other-error", UnexpectedAttribute { expected: b'r', found: Some(b'e') }),
        ("r=Nx", UnexpectedAttribute { expected: b's', found: None }),
        ("r=Nx,i=1,s=AAAA", UnexpectedAttribute { expected: b's', found: Some(b'i') }),
        ("r=Nx,s=AAAA", UnexpectedAttribute { expected: b'i', found: None }),
        ("r=N,s=AAAA,i=1", NonceMismatch),
        ("r=x,s=AAAA,i=1", NonceMismatch),
        ("r=xN,s=AAAA,i=1", NonceMismatch),
        ("r=N\u{e9},s=AAAA,i=1", bad(b'r', Fault::NotPrintable)),
        ("r=Nx,s=,i=1", bad(b's', Fault::WrongLength)),
        ("r=Nx,s=A,i=1", bad(b's', Fault::NotBase64)),
        ("r=Nx,s=AAAA,i=", bad(b'i', Fault::NotANumber)),
        ("r=Nx,s=AAAA,i=0", bad(b'i', Fault::NotANumber)),
        ("r=Nx,s=AAAA,i=+1", bad(b'i', Fault::NotANumber)),
        ("r=Nx,s=AAAA,i=-1", bad(b'i', Fault::NotANumber)),
        ("r=Nx,s=AAAA,i=99999999999", bad(b'i', Fault::NotANumber)),
        ("r=Nx,s=AAAA,i=1,?", UnexpectedAttribute { expected: b'x', found: Some(b'?') }),
    ];
    for (message, error) in cases {
        let mut client = new_client();
        let message = message.replace('N', nonce(1).as_str());
        assert_eq!(client.handle_server_first(message.as_bytes()), Err(error), "{message}");
        assert_eq!(client.handle_server_first(b"r=a"), Err(OutOfOrder), "an error ends the exchange");
    }
    let extended = format!("r={}x,s=AAAA,i=1,x=y", nonce(1).as_str());
    assert!(new_client().handle_server_first(extended.as_bytes()).is_ok());
}

#[test]
fn a_hostile_number_of_iterations_is_not_computed() {
    for iterations in [ITERATIONS_MAX + 1, 10_000_000, i32::MAX as u32] {
        let message = format!("r={}x,s=AAAA,i={iterations}", nonce(1).as_str());
        let error = new_client().handle_server_first(message.as_bytes()).unwrap_err();
        assert_eq!(error, ScramError::TooManyIterations { iterations });
        assert!(error.to_string().contains(&iterations.to_string()));
    }
}

#[test]
fn a_server_that_does_not_know_the_secret_is_not_believed() {
    let answers: [(&[u8], ScramError); 8] = [
        (b"", ScramError::Empty),
        (b"v=", ScramError::BadValue { attribute: b'v', fault: Fault::WrongLength }),
        (b"v=????", ScramError::BadValue { attribute: b'v', fault: Fault::NotBase64 }),
        (b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", ScramError::InvalidSignature),
        (b"x=1", ScramError::UnexpectedAttribute { expected: b'v', found: Some(b'x') }),
        (b"e=invalid-proof", ScramError::ServerRefused { value: "invalid-proof".into() }),
        (b"e=\x1b[31m", ScramError::ServerRefused { value: String::new() }),
        (b"e", ScramError::UnexpectedAttribute { expected: b'v', found: Some(b'e') }),
    ];
    for (answer, error) in answers {
        let mut client = new_client();
        challenge(&mut client, &mut new_server()).expect("right so far");
        assert_eq!(client.handle_server_final(answer), Err(error), "{}", answer.escape_ascii());
        assert!(!client.is_verified() && client.salted_keys().is_none());
        assert_eq!(client.handle_server_final(answer), Err(ScramError::OutOfOrder));
    }
}

#[test]
fn any_changed_byte_of_the_last_messages_fails() {
    let (mut client, mut server) = (new_client(), new_server());
    let last = challenge(&mut client, &mut server).expect("right so far");
    let signature = server.handle_client_final(&last).expect("right password");
    for at in 0..last.len() {
        for change in 1..=255 {
            let (mut client, mut server) = (new_client(), new_server());
            let mut wrong = challenge(&mut client, &mut server).expect("right so far");
            wrong[at] ^= change;
            assert!(server.handle_client_final(&wrong).is_err(), "byte {at} changed by {change}");
            assert!(server.keys().is_none());
        }
    }
    for at in 0..signature.len() {
        let (mut client, mut server) = (new_client(), new_server());
        challenge(&mut client, &mut server).expect("right so far");
        let mut wrong = signature.clone();
        wrong[at] ^= 1;
        assert!(client.handle_server_final(&wrong).is_err(), "byte {at}");
    }
}

#[test]
fn any_prefix_of_a_message_fails_or_is_a_shorter_message() {
    let (mut client, mut server) = (new_client(), new_server());
    let last = challenge(&mut client, &mut server).expect("right so far");
    for end in 0..last.len() {
        let mut server = new_server();
        server.handle_client_first(&new_client().client_first()).expect("right so far");
        assert!(server.handle_client_final(&last[..end]).is_err(), "{end} bytes");
    }
}

#[test]
fn huge_messages_are_refused_unread() {
    let huge = [b"n,,n=,r=".as_slice(), &[b'a'; CLIENT_MESSAGE_MAX]].concat();
    let error = new_server().handle_client_first(&huge).unwrap_err();
    assert_eq!(error, ScramError::TooLong { len: huge.len(), max: CLIENT_MESSAGE_MAX });
    let longest = &huge[..CLIENT_MESSAGE_MAX];
    assert!(new_server().handle_client_first(longest).is_ok());
    let error = new_client().handle_server_first(&vec![b'r'; 1 << 20]).unwrap_err();
    assert_eq!(error, ScramError::TooLong { len: 1 << 20, max: SERVER_MESSAGE_MAX });
}

#[test]
fn steps_out_of_order_are_our_own_fault() {
    let misuse = [
        new_server().handle_client_final(b"c=biws").unwrap_err(),
        new_client().handle_server_final(b"v=AAAA").unwrap_err(),
    ];
    for error in misuse {
        assert_eq!(error, ScramError::OutOfOrder);
        assert_eq!(error.blame(), Blame::Misuse);
    }
    let (mut client, mut server) = (new_client(), new_server());
    run(&mut client, &mut server).expect("right password");
    assert_eq!(server.handle_client_first(b"n,,n=,r=a"), Err(ScramError::OutOfOrder));
    assert!(server.keys().is_none(), "an exchange that was misused proves nothing");
}

#[test]
fn blame_decides_what_the_peer_is_told() {
    assert_eq!(ScramError::InvalidProof.blame(), Blame::Credentials);
    assert_eq!(ScramError::InvalidSignature.blame(), Blame::Credentials);
    assert_eq!(ScramError::BindingUnsupported.blame(), Blame::Unsupported);
    assert_eq!(ScramError::NonceMismatch.blame(), Blame::Malformed);
    let named = ScramError::BadValue { attribute: b's', fault: Fault::NotBase64 }.to_string();
    assert_eq!(named, "malformed SCRAM message: attribute \"s\" is not base64");
    let found = ScramError::UnexpectedAttribute { expected: b'r', found: Some(0x1b) }.to_string();
    assert_eq!(found, "malformed SCRAM message: attribute \"r\" expected, 0x1b found");
}

#[test]
fn a_nonce_is_printable_and_not_empty() {
    for text in ["", "a,b", "a b", "\u{e9}", "a\n", "\u{7f}"] {
        assert_eq!(Nonce::from_printable(text), None, "{text:?}");
    }
    assert_eq!(nonce(0xff).as_str().len(), 24);
    assert_eq!(Nonce::from_printable(nonce(9).as_str()), Some(nonce(9)));
}

/// Passwords as people and programs make them: any text, and any bytes.
fn any_password() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<String>().prop_map(String::into_bytes),
        "[\u{a0}-\u{2ff}\u{600}-\u{6ff}\u{2100}-\u{21ff}\u{ad}a]{1,12}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 1..40),
    ]
}

proptest! {
    #[test]
    fn whoever_knows_the_password_gets_in_and_nobody_else(
        right in any_password(),
        wrong in any_password(),
        salt in proptest::collection::vec(any::<u8>(), 1..64),
        iterations in 1_u32..20,
        entropy in any::<([u8; 18], [u8; 18])>(),
    ) {
        let secret = ScramSecret::derive(&right, &salt, iterations);
        let attempt = |guess: &[u8]| {
            let mut client = ScramClient::new(password(guess), Nonce::from_entropy(entropy.0));
            let mut server = ScramServer::new(secret.clone(), Nonce::from_entropy(entropy.1));
            run(&mut client, &mut server).map(|()| (client.is_verified(), server.keys().is_some()))
        };
        prop_assert_eq!(attempt(&right), Ok((true, true)));
        let same = ScramSecret::derive(&wrong, &salt, iterations) == secret;
        prop_assert_eq!(attempt(&wrong).is_ok(), same);
        if !wrong.is_empty() {
            prop_assert_eq!(verify_plain(&Secret::Scram(secret.clone()), b"u", &wrong), same);
        }
        prop_assert_eq!(Secret::parse(&secret.to_stored()), Secret::Scram(secret.clone()));
    }

    #[test]
    fn no_input_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        text in "[nypcrsivea=,A-C1-3\\PC]{0,60}",
    ) {
        for message in [bytes.as_slice(), text.as_bytes()] {
            let _ = new_server().handle_client_first(message).map_err(|error| error.to_string());
            let _ = new_client().handle_server_first(message).map_err(|error| error.to_string());
            let (mut client, mut server) = (new_client(), new_server());
            challenge(&mut client, &mut server).expect("right so far");
            prop_assert!(server.handle_client_final(message).is_err());
            prop_assert!(client.handle_server_final(message).is_err());
        }
        let _ = Secret::parse(&text);
    }
}
