//! Servers that do what PostgreSQL never does. Whatever it is: the pooler lives within its memory, the client concerned
//! gets an error or an end, never somebody else's bytes, and nobody else notices.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use pgsluice_tests::fake::{
    self, Act, CUE, Fake, Script, answer, be_silent, columns, complete, flood, ready, report, row,
};
use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, Pooler, Postgres, Raw};

/// KiB that a server may add to the memory of the pooler.
const OVER_IDLE: usize = 32 << 10;
/// When a server says what it was not asked.
const LATER: Duration = Duration::from_millis(100);
/// What a client reads of a flood before it has enough.
const ENOUGH: usize = 8 << 20;

/// A pooler in front of a server with a script, and of a real one.
struct Scene {
    pooler: Pooler,
    real: String,
    idle: usize,
}

impl Scene {
    fn new(script: Script) -> Scene {
        Scene::with_patience(script, 10)
    }

    /// Clients wait so many seconds for a server.
    fn with_patience(script: Script, seconds: u32) -> Scene {
        let (fake, postgres) = (Fake::start(script), Postgres::shared());
        let real = postgres.database();
        let text = format!(
            "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nadmin_users = [\"app\"]\ndefault_pool_size = 2\n\
             server_connect_timeout = 1\ncancel_wait_timeout = 1\nquery_wait_timeout = {seconds}\n\
             [databases.fake]\nhost = \"127.0.0.1\"\nport = {}\naudit = \"never\"\n[databases.{real}]\nhost = \"127.0.0.1\"\nport = {}\n\
             [users.app]\npassword = \"{}\"\n",
            fake.port(),
            postgres.port(),
            APP.password
        );
        let pooler = Pooler::file("pgsluice.toml", &text, APP);
        let mut scene = Scene { pooler, real, idle: 0 };
        scene.check_others();
        scene.pooler.forget_peak();
        scene.idle = scene.pooler.resident();
        scene
    }

    fn client(&self) -> Raw {
        self.pooler.connect(APP, "fake")
    }

    /// Clients of another server are served, the console is, and memory is within bounds.
    fn check_others(&self) {
        let mut witness = self.pooler.connect(APP, &self.real);
        (0..100).for_each(|n| assert_eq!(witness.value(&format!("SELECT {n}")), n.to_string()));
        assert!(!self.pooler.show("SHOW POOLS").is_empty());
        let over = self.pooler.peak().saturating_sub(self.idle);
        assert!(self.idle == 0 || over < OVER_IDLE, "{over} KiB over the {} KiB of an idle pooler", self.idle);
    }

    /// And clients of this server get what is theirs.
    fn check_all(&self) {
        self.check_others();
        for n in 0..4 {
            let mut client = self.client();
            (0..20).for_each(|k| check_echo(&mut client, &format!("mine {n} {k}")));
        }
    }
}

fn check_echo(client: &mut Raw, text: &str) {
    assert_eq!(client.value(text), text);
}

/// How an exchange went, as its client saw it.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Error,
    Closed,
    /// It had enough.
    Flooded,
}

/// Asks the server to misbehave, and reads what comes of it.
fn cue(client: &mut Raw) -> Outcome {
    client.send(&m::query(CUE)).expect("the pooler reads");
    let (mut failed, mut bytes) = (false, 0);
    loop {
        match client.recv_unheld() {
            Ok(message) if message.tag == b'Z' => return if failed { Outcome::Error } else { Outcome::Answered },
            Ok(message) => {
                failed |= message.tag == b'E';
                bytes += message.length;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the client was left hanging"),
            Err(_) => return Outcome::Closed,
        }
        if bytes > ENOUGH {
            return Outcome::Flooded;
        }
    }
}

/// One client has the server do `query`, once or twice; then all is as it was.
fn misbehaving(name: &str, query: Act) -> Outcome {
    let scene = Scene::new(Script { query, ..Script::default() });
    let mut client = scene.client();
    let outcome = cue(&mut client);
    println!("{name}: {outcome:?}");
    match outcome {
        Outcome::Answered | Outcome::Error => {
            // What the server says by then is nobody's; what it says later is the answer to whatever it was asked.
            std::thread::sleep(LATER * 2);
            check_echo(&mut client, "the session goes on");
        }
        Outcome::Closed | Outcome::Flooded => drop(client),
    }
    scene.check_all();
    cue(&mut scene.client());
    std::thread::sleep(LATER * 2);
    scene.check_all();
    outcome
}

#[test]
fn answers_nobody_asked_for() {
    let twice: Act = |stream| {
        answer(stream, CUE)?;
        answer(stream, "twice")
    };
    assert_eq!(misbehaving("answers twice", twice), Outcome::Answered);
    let later: Act = |stream| {
        answer(stream, CUE)?;
        std::thread::sleep(LATER);
        stream.write_all(&[row(&["stray"]), complete(), ready()].concat())
    };
    assert_eq!(misbehaving("sends a row while idle", later), Outcome::Answered);
    let part: Act = |stream| {
        answer(stream, CUE)?;
        std::thread::sleep(LATER);
        stream.write_all(&fake::notice(b'N', "NOTICE", "half of this")[..9])
    };
    assert_eq!(misbehaving("sends half a message while idle", part), Outcome::Answered);
    let wrong: Act = |stream| stream.write_all(&m::tagged(b'1', b""));
    assert_eq!(misbehaving("answers something else", wrong), Outcome::Error);
    let unknown: Act = |stream| stream.write_all(&m::tagged(b'~', b"?"));
    assert_eq!(misbehaving("sends what is no message", unknown), Outcome::Error);
    let state: Act = |stream| stream.write_all(&m::tagged(b'Z', b"?"));
    assert_eq!(misbehaving("is ready in no known state", state), Outcome::Error);
}

#[test]
fn lengths_that_cannot_be() {
    fn with_length(stream: &mut TcpStream, length: u32) -> io::Result<()> {
        stream.write_all(&[&b"T"[..], &length.to_be_bytes(), &[0; 64]].concat())
    }
    let acts: [(&str, Act); 4] = [
        ("length 0", |stream| with_length(stream, 0)),
        ("length 3", |stream| with_length(stream, 3)),
        ("length -1", |stream| with_length(stream, u32::MAX)),
        ("length of 2 GB", |stream| with_length(stream, 0x7fff_ffff)),
    ];
    for (name, act) in acts {
        assert_eq!(misbehaving(name, act), Outcome::Error);
    }
    // Messages that have to be read whole are not waited for if they are too long for that.
    let acts: [(&str, Act); 3] = [
        ("a long CommandComplete", |stream| stream.write_all(&m::begun(b'C', b"SELECT", 1 << 29))),
        ("a long ReadyForQuery", |stream| stream.write_all(&m::begun(b'Z', b"I", 1 << 29))),
        ("a long ParameterStatus", |stream| stream.write_all(&m::begun(b'S', b"TimeZone\0", 1 << 29))),
    ];
    for (name, act) in acts {
        assert_eq!(misbehaving(name, act), Outcome::Error);
    }
}

#[test]
fn ends_in_the_middle() {
    let nothing: Act = |_| Err(io::ErrorKind::Other.into());
    assert_eq!(misbehaving("closes without a word", nothing), Outcome::Error);
    let answer: Act = |stream| {
        stream.write_all(&[columns(1), row(&["one"])].concat())?;
        Err(io::ErrorKind::Other.into())
    };
    assert_eq!(misbehaving("closes in the middle of an answer", answer), Outcome::Error);
    let message: Act = |stream| {
        stream.write_all(&[columns(1), m::begun(b'D', b"\0\x01", 1000)].concat())?;
        Err(io::ErrorKind::Other.into())
    };
    assert_eq!(misbehaving("closes in the middle of a message", message), Outcome::Closed);
}

#[test]
fn floods() {
    let notices: Act = |stream| flood(stream, &fake::notice(b'N', "NOTICE", "again"));
    assert_eq!(misbehaving("notices without end", notices), Outcome::Flooded);
    let rows: Act = |stream| {
        stream.write_all(&columns(1))?;
        flood(stream, &row(&["again"]))
    };
    assert_eq!(misbehaving("rows without end", rows), Outcome::Flooded);
    let errors: Act = |stream| flood(stream, &fake::notice(b'E', "ERROR", "again"));
    assert_eq!(misbehaving("errors without end", errors), Outcome::Flooded);
    let same: Act = |stream| flood(stream, &[report("TimeZone", "UTC"), report("TimeZone", "GMT")].concat());
    assert_eq!(misbehaving("one parameter without end", same), Outcome::Flooded);
    let parameters: Act = |stream| {
        let mut names = 0..;
        loop {
            let some = names.by_ref().take(1000).flat_map(|n| report(&format!("name{n}"), "value"));
            stream.write_all(&some.collect::<Vec<u8>>())?;
        }
    };
    assert_eq!(misbehaving("parameters without end", parameters), Outcome::Error);
    let long: Act =
        |stream| (0..100).try_for_each(|n| stream.write_all(&report(&format!("name{n}"), &"x".repeat(1_000_000))));
    assert_eq!(misbehaving("long parameters", long), Outcome::Error);
}

/// Reads one row of 1 GB for a while, hangs up, and is not missed.
#[test]
fn an_endless_row() {
    let scene = Scene::new(Script {
        query: |stream| {
            stream.write_all(&[columns(1), m::begun(b'D', b"\0\x01", 1 << 30)].concat())?;
            flood(stream, b"x")
        },
        ..Script::default()
    });
    for _ in 0..3 {
        let mut client = scene.client();
        client.send(&m::query(CUE)).unwrap();
        io::copy(&mut io::Read::take(client.stream().try_clone().unwrap(), ENOUGH as u64), &mut io::sink()).unwrap();
        drop(client);
        scene.check_all();
    }
}

/// A server that goes on whatever is said: when it is cancelled, when it is to be cleaned, and when it is idle.
#[test]
fn floods_when_nobody_reads() {
    let cleaning: Act = |stream| {
        stream.write_all(&[columns(1), row(&[CUE]), complete(), m::tagged(b'Z', b"T")].concat())?;
        std::thread::sleep(Duration::from_millis(200));
        flood(stream, &fake::notice(b'N', "NOTICE", "again"))
    };
    let idle: Act = |stream| {
        answer(stream, CUE)?;
        flood(stream, &fake::notice(b'N', "NOTICE", "again"))
    };
    for act in [cleaning, idle] {
        let scene = Scene::new(Script { query: act, ..Script::default() });
        for _ in 0..3 {
            let mut client = scene.client();
            client.send(&m::query(CUE)).unwrap();
            client.until_ready();
            drop(client);
            scene.check_all();
        }
    }
}

#[test]
fn a_server_that_answers_neither_a_query_nor_its_cancellation() {
    let scene = Scene::new(Script { query: be_silent, cancel: be_silent, ..Script::default() });
    for _ in 0..3 {
        let mut client = scene.client();
        client.send(&m::query(CUE)).unwrap();
        assert!(client.silent_for(Duration::from_millis(100)));
        drop(client);
        scene.check_all();
    }
}

/// A client's settings are what no server survives: it is told, and not tried with one after the other for ever.
#[test]
fn servers_that_end_when_they_are_brought_to_settings() {
    let scene = Scene::new(Script {
        query: |stream| {
            stream.write_all(&report("TimeZone", "Mars"))?;
            answer(stream, CUE)
        },
        parse: |_| Err(io::ErrorKind::Other.into()),
        ..Script::default()
    });
    let mut client = scene.client();
    assert_eq!(cue(&mut client), Outcome::Answered);
    // Its server is asked what has become of its settings, and ends. They went with it, and the client is told.
    let told = client.recv().unwrap();
    assert_eq!((told.tag, told.sqlstate()), (b'E', "08006".into()), "{told:?}");
    scene.check_all();
}

#[test]
fn a_long_last_word_before_many_queries() {
    const QUERIES: usize = 10_000;
    let scene = Scene::new(Script {
        query: |stream| {
            stream.write_all(&fake::notice(b'E', "FATAL", &"because ".repeat(8_000)))?;
            Err(io::ErrorKind::Other.into())
        },
        ..Script::default()
    });
    let mut client = scene.client();
    let sent = client.send_aside(m::query(CUE).repeat(QUERIES));
    let mut because = 0;
    for _ in 0..QUERIES {
        let replies = client.until_ready();
        assert_eq!(replies[0].tag, b'E', "{replies:?}");
        because += usize::from(replies[0].field(b'M').starts_with("because because"));
    }
    sent.join().unwrap().unwrap();
    assert!(because > 0, "a last word that came before the connection broke is told");
    scene.check_all();
}

/// A server nobody gets past: clients are refused, others are not.
fn no_login(name: &str, login: Act) {
    let scene = Scene::with_patience(Script { login, ..Script::default() }, 1);
    let refused = scene.pooler.try_connect(APP, "fake").map(drop).expect_err(name);
    assert!(!refused.sqlstate().is_empty(), "{name}: {refused:?}");
    scene.check_others();
}

#[test]
fn logins_that_do_not_end() {
    no_login("silence", be_silent);
    no_login("notices", |stream| flood(stream, &fake::notice(b'N', "NOTICE", "again")));
    no_login("parameters", |stream| {
        stream.write_all(&m::tagged(b'R', &[0; 4]))?;
        (0..1_000_000).try_for_each(|n| stream.write_all(&report(&format!("name{n}"), &"x".repeat(1000))))
    });
    no_login("one parameter", |stream| {
        stream.write_all(&m::tagged(b'R', &[0; 4]))?;
        flood(stream, &report("TimeZone", "UTC"))
    });
    no_login("half a message", |stream| {
        stream.write_all(&m::begun(b'E', b"SFATAL", 1 << 29))?;
        flood(stream, b"x")
    });
}

#[test]
fn logins_that_make_no_sense() {
    no_login("an error of 60 KB", |stream| stream.write_all(&fake::notice(b'E', "FATAL", &"no ".repeat(20_000))));
    no_login("an unknown method", |stream| stream.write_all(&m::tagged(b'R', &[0, 0, 0, 99])));
    no_login("ready at once", |stream| stream.write_all(&ready()));
    no_login("a key without a secret", |stream| stream.write_all(&fake::welcome(b"")));
    no_login("a key with a long secret", |stream| stream.write_all(&fake::welcome(&[7; 60_000])));
    no_login("a length of nothing", |stream| stream.write_all(b"R\0\0\0\0"));
    no_login("a length of 4 GB", |stream| stream.write_all(b"R\xff\xff\xff\xff\0\0\0\0"));
}

#[test]
fn limits_that_do_not_end() {
    let limits: Act = |stream| {
        stream.write_all(&columns(4))?;
        flood(stream, &row(&["100", "3", "0", "0"]))
    };
    for act in [limits, be_silent] {
        // Longer than the limits are waited for.
        let scene = Scene::with_patience(Script { limits: act, ..Script::default() }, 30);
        scene.check_all();
        std::thread::sleep(Duration::from_millis(500));
        scene.check_all();
    }
}
