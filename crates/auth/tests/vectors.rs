//! Fixed vectors: RFC 7677, and secrets and exchanges recorded from PostgreSQL 15.18 and its libpq.

use pgsluice_auth::{
    ITERATIONS_MAX, Nonce, SaltedKeys, ScramClient, ScramCredential, ScramKeys, ScramSecret, ScramServer, Secret,
    md5_response, scram_secret, verify_md5, verify_plain,
};

/// `CREATE ROLE ascii PASSWORD 'correct horse battery staple'` under password_encryption = scram-sha-256.
const ASCII_PASSWORD: &str = "correct horse battery staple";
const ASCII_SECRET: &str = "SCRAM-SHA-256$4096:6JMrsDpIx1uRdNeYXhWjBw==$BUtRRgcOSR4o/LQbrlQvoQe7zO2ZYVKxnzDBOkMb1Jc=:qiCkkwyeEtVnUpFQgUmpp7moTXKK1G1m9z3r7fViuR8=";

/// psql 15 logging in as that role, as seen on the wire.
const CLIENT_NONCE: &str = "NlAWdnAKsI6dNzoJKN2zVhDV";
const SERVER_NONCE: &str = "U4xG8CvLUVEcWfwD04sFIH2U";
const CLIENT_FIRST: &[u8] = b"n,,n=,r=NlAWdnAKsI6dNzoJKN2zVhDV";
const SERVER_FIRST: &[u8] = b"r=NlAWdnAKsI6dNzoJKN2zVhDVU4xG8CvLUVEcWfwD04sFIH2U,s=6JMrsDpIx1uRdNeYXhWjBw==,i=4096";
const CLIENT_FINAL: &[u8] =
    b"c=biws,r=NlAWdnAKsI6dNzoJKN2zVhDVU4xG8CvLUVEcWfwD04sFIH2U,p=2S09FQ2HcqCuus/mxXYmk2yYR0WuTobRsByvcRfaQPs=";
const SERVER_FINAL: &[u8] = b"v=0W/q3TBheupxQlztDdUFLQqz7a4p9ftPFVOqFBMKmrk=";

/// `CREATE ROLE m_md5 PASSWORD 'pencil'` under password_encryption = md5, and psql's answer to salt 3f 07 ef 2a.
const MD5_SECRET: &str = "md514771c0bc6db303eaf12555339c63b0d";
const MD5_SALT: [u8; 4] = [0x3f, 0x07, 0xef, 0x2a];
const MD5_RESPONSE: &[u8] = b"md5c47e2e72f52262330dea897ffa3d053b";

/// Secrets PostgreSQL 15.18 (UTF8) made of passwords that SASLprep changes, or would but for a prohibited character.
const PREPARED: [(&str, &str); 15] = [
    // Mapped to nothing, to a space, by compatibility, and composed.
    (
        "I\u{ad}X",
        "SCRAM-SHA-256$4096:SpWL67vp7LcTE7ZXRmoPKw==$vytSSmI0aAKSSD9nKeoi9je1Z7pfeboqtkRDihXuogs=:a+sEzH40NI+R3E2FJDwbLprPRlzjYR+agcPdAxt5+8E=",
    ),
    (
        "a\u{a0}b",
        "SCRAM-SHA-256$4096:7Ev8Imo+MYHCblzrmeKHVw==$D38hWtMr45HKBDpdw4GAzjTcXBegZ2azoEC4osamijc=:YPJxO4d24oPnXwfMcp4Phv50FNOP32pJmXvRHMuHXJU=",
    ),
    (
        "a\u{200b}\u{2169}",
        "SCRAM-SHA-256$4096:UTNXlDB7rxaa2RDn/8Iv2A==$EU4+7vN828vjG11dKH6ei/FJQrjLjIJiImq4Ai7SQuw=:MRBSClPTt7Iisr+4kk9NMkFnQ83eC4lRXCPYHfB/its=",
    ),
    (
        "\u{fb01}x\u{2163}",
        "SCRAM-SHA-256$4096:jrCSAGC539tZOTw4MElE2A==$AZWgik0KTTcDBISIpk8bKMad2pVrx/BJsL4MFCWSB3Y=:00mxf+9qDgGmt4m9GfipnPDoVSbDfUp7L4QIgA4JGS8=",
    ),
    (
        "\u{2169}",
        "SCRAM-SHA-256$4096:+2V8ctz17WSU7Qmc1dOjZw==$YC861tbT10lPSpoPpHoCmlkl8xqnzuHDpYl0Qq4DleM=:7Cp+beAPfm3u+lnOZdUFPuSR3Q213zd34F2rrrxeWaY=",
    ),
    (
        "a\u{216f}\u{2460}\u{ff21}",
        "SCRAM-SHA-256$4096:Lvr6CGgqQhSfERV5RspXgw==$471cED636cgVWM9eLZJklwO99ITzeNcwyQK5V7SrXDg=:rhf1rJ9E0muyTsK3NBiMaeMUslPD2CVxRBeOWyUzfBE=",
    ),
    (
        "e\u{301}",
        "SCRAM-SHA-256$4096:GtQ150h0fYKCljIkkUJHFg==$NzQ7/mVZpigbF2XidNIHimZv/2d+tJ54Gb/RVZIzf90=:OpN1HzI7xi00QfCQ66jqFpYQ3Oahb919UJDr1xNdWaw=",
    ),
    // Kept raw: a control character, mixed directions, unassigned in Unicode 3.2, nothing left after mapping.
    (
        "a\u{7}\u{2169}",
        "SCRAM-SHA-256$4096:QxB7NXCcL9CkAt1/ffM+0Q==$nc/yGkpUpAPuMenQA+Ons6mXShGkLwGndixpngIX6KQ=:0uhdqOW/VSEj8sn/hNACAYOms8B4SAwvYmOrU1Tj5nY=",
    ),
    (
        "\u{627}1",
        "SCRAM-SHA-256$4096:p6gEN1EBOU0RbvgSwIAn3g==$XPs9kb9xM7aZkgEg24f0Xi6i1Ru+lmtJiElM9pUOd8I=:7xXnpUE1MnYwh8CNI/pTYMIX9C0RDlooTrelj6RgYek=",
    ),
    (
        "\u{627}1\u{628}\u{2169}",
        "SCRAM-SHA-256$4096:t5yUEr4/CIck7qTi9qMDTA==$PPzsLGCjW3aiSnuC7AE8Eaes9m5UCHOScNUGNVKgXaw=:/XEVhha9N+PobJhHnba9aOW5aTgeDI8Q8LLKmt9nqmw=",
    ),
    (
        "\u{fb50}\u{2169}\u{628}",
        "SCRAM-SHA-256$4096:oueHHfqWqO7DQxRK1ZJ+ZA==$ledozoYB1ushXlvIM3u71kwcuhAuykec8cj+xy8xVN4=:llM3a0Lvj0OdjZjcY7Lt+CcWyKUcTnQ0oRoCG6WLubM=",
    ),
    (
        "\u{221}\u{2169}",
        "SCRAM-SHA-256$4096:H/Q/VzwNxOuS1HLzX+Oa2w==$wWDOAv7oDQixm4VdlZ74rVwM7XRVor6hBlgK4VP5ZDI=:Nq8KgntWqdr0KmWHFjpWwqLf5D2JBZBB55eqiOMmrhw=",
    ),
    (
        "\u{ad}\u{ad}",
        "SCRAM-SHA-256$4096:Zgj2VJHucryW5KoBeAx6eQ==$IS7aTBPyCP3TPS70LDSKjQMMWvUy5SCsBCSo4RSWYOg=:KQr+tBga+qcH+Od9e8QOXcqpyIuzKtqttHtjNTl0Cu8=",
    ),
    // Kept raw by PostgreSQL alone: harmless once normalized, but it looks before it normalizes.
    (
        "\u{1d2c}x",
        "SCRAM-SHA-256$4096:W367gqsQNZEOz6HK27XtBg==$4+3RB8Q4IgjZoH6lHr6o8LL5eVfnLTiSKV3DURc9obU=:6HkwFAHQ8BD35vOHKvmsvbsDuzTCniqb31heO4DeMRI=",
    ),
    (
        "a\u{340}",
        "SCRAM-SHA-256$4096:D5GnmSdDiGY2SlThaz18VQ==$vu4vIlBDT8bej2FaSz2p44/nJAckA8wD2Qb1kVX8lXo=:TVfWDwmHk+21VN4/m94OjDiYFe1rd2n2V4yjaIne6u4=",
    ),
];

fn nonce(text: &str) -> Nonce {
    Nonce::from_printable(text).expect("test nonce")
}

fn password(text: &str) -> ScramCredential {
    ScramCredential::Password { password: text.as_bytes().to_vec(), known: None }
}

#[test]
fn the_client_role_says_what_libpq_said_and_believes_postgresql() {
    let mut client = ScramClient::new(password(ASCII_PASSWORD), nonce(CLIENT_NONCE));
    assert_eq!(client.client_first(), CLIENT_FIRST);
    assert_eq!(client.handle_server_first(SERVER_FIRST), Ok(CLIENT_FINAL.to_vec()));
    assert!(!client.is_verified() && client.salted_keys().is_none());
    assert_eq!(client.handle_server_final(SERVER_FINAL), Ok(()));
    assert!(client.is_verified());
}

#[test]
fn the_server_role_says_what_postgresql_said_to_libpq() {
    let secret = ScramSecret::parse(ASCII_SECRET).expect("PostgreSQL's secret");
    let mut server = ScramServer::new(secret, nonce(SERVER_NONCE));
    assert_eq!(server.handle_client_first(CLIENT_FIRST), Ok(SERVER_FIRST.to_vec()));
    assert!(server.keys().is_none());
    assert_eq!(server.handle_client_final(CLIENT_FINAL), Ok(SERVER_FINAL.to_vec()));
    assert!(server.keys().is_some());
}

/// RFC 7677, section 3: user "user", password "pencil".
#[test]
fn the_server_role_follows_rfc_7677() {
    let salt = [0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];
    let secret = Secret::Plain("pencil".into()).to_scram(&salt, 4096).expect("plain makes SCRAM");
    let mut server = ScramServer::new(secret, nonce("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"));
    let first = server.handle_client_first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").expect("RFC's client-first");
    let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    assert_eq!(String::from_utf8_lossy(&first), expected);
    let last =
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let signature = server.handle_client_final(last).expect("RFC's proof");
    assert_eq!(signature, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn secrets_are_read_and_made_as_postgresql_does() {
    let secret = ScramSecret::parse(ASCII_SECRET).expect("PostgreSQL's secret");
    assert_eq!(secret.to_stored(), ASCII_SECRET);
    assert_eq!(scram_secret(ASCII_PASSWORD.as_bytes(), secret.salt(), secret.iterations()), ASCII_SECRET);
}

#[test]
fn passwords_are_prepared_as_postgresql_does() {
    for (password, stored) in PREPARED {
        let secret = ScramSecret::parse(stored).expect("PostgreSQL's secret");
        let made = scram_secret(password.as_bytes(), secret.salt(), secret.iterations());
        assert_eq!(made, stored, "{password:?}");
    }
}

#[test]
fn md5_answers_are_libpqs() {
    for secret in [Secret::Plain("pencil".into()), Secret::parse(MD5_SECRET)] {
        assert_eq!(md5_response(b"m_md5", &secret, MD5_SALT).expect("MD5 is possible"), MD5_RESPONSE);
        assert!(verify_md5(&secret, b"m_md5", MD5_SALT, MD5_RESPONSE));
        assert!(!verify_md5(&secret, b"m_md5", [0; 4], MD5_RESPONSE));
    }
    // The stored hash has the user's name in it already.
    assert!(!verify_md5(&Secret::Plain("pencil".into()), b"other", MD5_SALT, MD5_RESPONSE));
    let scram = Secret::parse(ASCII_SECRET);
    assert_eq!(md5_response(b"m_md5", &scram, MD5_SALT), None);
    assert!(!verify_md5(&scram, b"m_md5", MD5_SALT, MD5_RESPONSE));
}

#[test]
fn every_byte_of_an_md5_answer_counts() {
    let secret = Secret::parse(MD5_SECRET);
    for at in 0..MD5_RESPONSE.len() {
        let mut wrong = MD5_RESPONSE.to_vec();
        wrong[at] ^= 1;
        assert!(!verify_md5(&secret, b"m_md5", MD5_SALT, &wrong), "byte {at}");
        assert!(!verify_md5(&secret, b"m_md5", MD5_SALT, &MD5_RESPONSE[..at]), "first {at} bytes");
    }
    assert!(!verify_md5(&secret, b"m_md5", MD5_SALT, &[MD5_RESPONSE, b"0"].concat()));
}

#[test]
fn cleartext_is_checked_against_all_kinds() {
    let cases = [
        (Secret::Plain("pencil".into()), "m_md5", "pencil"),
        (Secret::parse(MD5_SECRET), "m_md5", "pencil"),
        (Secret::parse(ASCII_SECRET), "ascii", ASCII_PASSWORD),
    ];
    for (secret, user, password) in cases {
        assert!(verify_plain(&secret, user.as_bytes(), password.as_bytes()), "{secret:?}");
        for wrong in ["", "p", "Pencil", "pencil ", "correct horse battery stapl"] {
            assert!(!verify_plain(&secret, user.as_bytes(), wrong.as_bytes()), "{secret:?} {wrong:?}");
        }
    }
    // The user's name is the salt of the stored hash.
    assert!(!verify_plain(&Secret::parse(MD5_SECRET), b"other", b"pencil"));
    assert!(!verify_plain(&Secret::Plain(String::new()), b"u", b""));
    assert!(verify_plain(&Secret::parse("\u{2169}"), b"u", "\u{2169}".as_bytes()));
}

#[test]
fn an_empty_password_admits_nobody() {
    let empty = Secret::Plain(String::new());
    assert!(empty.to_scram(b"salt", 1).is_none());
    assert!(md5_response(b"u", &empty, MD5_SALT).is_none());
}

#[test]
fn what_is_not_quite_a_secret_is_a_password() {
    let broken = [
        String::new(),
        "md5".into(),
        MD5_SECRET.to_uppercase(),
        MD5_SECRET.replace('7', "A"),
        MD5_SECRET[..34].into(),
        format!("{MD5_SECRET}0"),
        ASCII_SECRET.to_lowercase(),
        ASCII_SECRET.replace("4096", "0"),
        ASCII_SECRET.replace("4096", "-1"),
        ASCII_SECRET.replace("4096", ""),
        ASCII_SECRET.replace("4096", "2147483648"),
        ASCII_SECRET.replace("6JMr", "6J!r"),
        ASCII_SECRET.replace("6JMrsDpIx1uRdNeYXhWjBw==", ""),
        ASCII_SECRET.replace("BUtR", ""),
        ASCII_SECRET.replace("qiCk", ""),
        ASCII_SECRET.replace("$4096", ""),
        format!("{ASCII_SECRET}:"),
        ASCII_SECRET[..60].into(),
    ];
    for text in broken {
        assert_eq!(Secret::parse(&text), Secret::Plain(text.clone()));
    }
    assert!(matches!(Secret::parse(MD5_SECRET), Secret::Md5(_)));
    assert!(matches!(Secret::parse(ASCII_SECRET), Secret::Scram(_)));
}

#[test]
fn secrets_are_overwritten_when_they_are_dropped() {
    fn does_so<T: zeroize::ZeroizeOnDrop>() {}
    does_so::<Secret>();
    does_so::<ScramSecret>();
    does_so::<ScramKeys>();
    does_so::<SaltedKeys>();
    does_so::<ScramCredential>();
}

/// Whoever may set a password may choose the number, and all logins wait for the hashing.
#[test]
fn a_password_is_not_tried_against_a_secret_with_too_many_iterations() {
    let tried = |iterations| {
        let secret = ScramSecret::parse(&scram_secret(b"hunter2", b"salt", iterations)).expect("a secret");
        secret.keys_of(b"hunter2").is_some()
    };
    assert!(tried(1));
    assert!(!tried(ITERATIONS_MAX + 1));
}

#[test]
fn nothing_shows_a_secret() {
    let mut client = ScramClient::new(password("hunter2"), nonce(CLIENT_NONCE));
    client.handle_server_first(SERVER_FIRST).expect("PostgreSQL's message");
    let server = ScramServer::new(ScramSecret::parse(ASCII_SECRET).expect("secret"), nonce(SERVER_NONCE));
    let keys = ScramKeys::derive(b"hunter2", b"salt", 1);
    let shown = [
        format!("{:?}", Secret::Plain("hunter2".into())),
        format!("{:?}", Secret::parse(MD5_SECRET)),
        format!("{:?}", Secret::parse(ASCII_SECRET)),
        format!("{client:?}"),
        format!("{server:?}"),
        format!("{:?}", password("hunter2")),
        format!("{:?}", ScramCredential::Keys(keys.clone())),
        format!("{:?}", SaltedKeys { keys, salt: b"hunter2".to_vec(), iterations: 1 }),
    ];
    for text in shown {
        for secret in ["hunter2", "14771c0b", "BUtRRgcO", "qiCkkwye", "104, 117", "6JMrsDpI", "232, 147"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
