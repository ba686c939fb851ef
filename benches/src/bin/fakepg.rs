//! A server that speaks just enough of protocol 3.0 to answer every query with a canned result at very little cost,
//! so that what is measured in front of it is the pooler. It is no model of PostgreSQL: it executes nothing, knows
//! no errors and no settings, and believes its client.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use pgsluice_benches::epoll::Epoll;
use pgsluice_benches::net::{Addr, Listener, Stream};
use pgsluice_benches::proto::{self, Startup};
use pgsluice_benches::usage;

/// A fake PostgreSQL with canned answers.
///
/// Accepts any user and database without a password. Every SELECT returns one row of one column, whose size is
/// 40 bytes, or N in "SELECT repeat('x', N)". "COPY (SELECT N) TO STDOUT" sends N bytes in lines of 100. BEGIN and
/// COMMIT or ROLLBACK move the transaction status. A new application_name is reported, and a new TimeZone that is set with
/// set_config; other settings are not. Named statements are taken to be the default SELECT, but for pgsluice_audit, which
/// finds nothing, as does a query of pg_proc that begins with a comment. There are no errors, no cancellation and no TLS.
#[derive(Parser)]
struct Options {
    /// ADDRESS:PORT or unix:PATH.
    #[arg(long, default_value = "127.0.0.1:17000")]
    listen: Addr,
    /// Threads that serve connections.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Wait this many microseconds before answering, to stand for the time of a query.
    #[arg(long, default_value_t = 0)]
    delay_us: u64,
    /// Take what others leave of the processors.
    #[arg(long)]
    give_way: bool,
    /// Wait this many microseconds more before answering what executes the statement pgsluice_audit.
    #[arg(long, default_value_t = 0)]
    audit_delay_us: u64,
}

/// Bytes of a row's only column where the query asks for no other size.
const ROW_DEFAULT: usize = 40;
/// The largest row or copy a query can ask for, in bytes.
const RESULT_MAX: usize = 64 << 20;
/// Bytes of a line of COPY data, its newline included.
const COPY_LINE: usize = 100;
/// The name of pgsluice's audit among the prepared statements (`crates/session/src/audit.rs`).
const AUDIT: &[u8] = b"pgsluice_audit";
/// Epoll's key of the listener; connections count from 0.
const LISTENER: u64 = u64::MAX;

fn main() -> io::Result<()> {
    let options = Options::parse();
    usage::raise_open_files(65_536);
    if options.give_way {
        usage::give_way();
    }
    let listener = Arc::new(Listener::bind(&options.listen)?);
    let delays = Delays {
        answer: Duration::from_micros(options.delay_us),
        audit: Duration::from_micros(options.audit_delay_us),
    };
    eprintln!("fakepg: listening on {}", options.listen);
    let threads: Vec<_> = (0..options.threads.max(1))
        .map(|_| {
            let listener = Arc::clone(&listener);
            std::thread::spawn(move || Server::new(&listener, delays)?.run())
        })
        .collect();
    for thread in threads {
        thread.join().expect("a serving thread never panics")?;
    }
    Ok(())
}

/// How long answers wait.
#[derive(Clone, Copy)]
struct Delays {
    answer: Duration,
    audit: Duration,
}

/// One serving thread: it polls the shared listener and keeps what it accepts.
struct Server<'a> {
    listener: &'a Listener,
    delays: Delays,
    epoll: Epoll,
    connections: Vec<Option<Box<Connection>>>,
    free: Vec<usize>,
    delayed: BinaryHeap<Reverse<(Instant, usize)>>,
    buffer: Vec<u8>,
    answers: Answers,
}

impl<'a> Server<'a> {
    fn new(listener: &'a Listener, delays: Delays) -> io::Result<Self> {
        let epoll = Epoll::new(256)?;
        epoll.add_listener(listener, LISTENER)?;
        Ok(Self {
            listener,
            delays,
            epoll,
            connections: Vec::new(),
            free: Vec::new(),
            delayed: BinaryHeap::new(),
            buffer: vec![0; 64 << 10],
            answers: Answers::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let next = self.delayed.peek().map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()));
            self.epoll.wait(next)?;
            for i in 0..self.epoll.len() {
                let ready = self.epoll.ready(i);
                if ready.key == LISTENER {
                    self.accept()?;
                } else {
                    self.serve(ready.key as usize, ready.readable, ready.writable);
                }
            }
            self.send_delayed();
        }
    }

    /// Accepts one connection at a time, so that other threads get their share.
    fn accept(&mut self) -> io::Result<()> {
        let Some(stream) = self.listener.accept()? else { return Ok(()) };
        let key = self.free.pop().unwrap_or(self.connections.len());
        if key == self.connections.len() {
            self.connections.push(None);
        }
        self.epoll.add_connection(&stream, key as u64)?;
        self.connections[key] = Some(Box::new(Connection::new(stream, key as u32)));
        Ok(())
    }

    fn serve(&mut self, key: usize, readable: bool, writable: bool) {
        let Some(connection) = self.connections.get_mut(key).and_then(Option::as_mut) else { return };
        let mut alive = true;
        if writable && connection.blocked {
            alive = connection.flush();
        }
        if readable && alive {
            alive = connection.read(&mut self.buffer, &self.answers);
            let audit = if std::mem::take(&mut connection.audited) { self.delays.audit } else { Duration::ZERO };
            let delay = self.delays.answer + audit;
            if delay.is_zero() {
                alive &= connection.flush();
            } else if alive && !connection.out.is_empty() {
                self.delayed.push(Reverse((Instant::now() + delay, key)));
            }
        }
        if !alive {
            self.connections[key] = None;
            self.free.push(key);
        }
    }

    fn send_delayed(&mut self) {
        while self.delayed.peek().is_some_and(|Reverse((at, _))| *at <= Instant::now()) {
            let Some(Reverse((_, key))) = self.delayed.pop() else { return };
            if let Some(connection) = self.connections[key].as_mut() {
                // A dead one is found by its next event.
                connection.flush();
            }
        }
    }
}

/// The canned pieces of an answer.
struct Answers {
    description: Vec<u8>,
    row: Vec<u8>,
    /// All of it, for a simple SELECT outside a transaction block.
    simple: Vec<u8>,
    copy_line: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let (description, row) = (proto::row_description(), proto::data_row(ROW_DEFAULT));
        let mut simple = [description.clone(), row.clone()].concat();
        proto::put_message(&mut simple, b'C', b"SELECT 1\0");
        proto::put_message(&mut simple, b'Z', b"I");
        let mut copy_line = Vec::new();
        let mut line = [b'x'; COPY_LINE];
        line[COPY_LINE - 1] = b'\n';
        proto::put_message(&mut copy_line, b'd', &line);
        Self { description, row, simple, copy_line }
    }
}

/// What a statement asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A row of the default size.
    Select,
    /// A row of this many bytes.
    Row(usize),
    /// COPY TO STDOUT of about this many bytes.
    Copy(usize),
    /// No rows.
    Nothing,
    /// A row changed.
    Write,
    Begin,
    /// The end of a transaction block, with its command tag.
    End(&'static [u8]),
    /// A command answered with its tag only.
    Set,
}

impl Kind {
    /// Classifies by the first word, as a fake may.
    fn of(sql: &[u8]) -> Kind {
        let sql = sql.trim_ascii_start();
        let end = sql.iter().position(|c| !c.is_ascii_alphabetic()).unwrap_or(sql.len());
        let (word, rest) = sql.split_at(end);
        match word.to_ascii_uppercase().as_slice() {
            b"" if sql.starts_with(b"--") && sql.windows(7).any(|part| part == b"pg_proc") => Kind::Nothing,
            b"UPDATE" | b"INSERT" | b"DELETE" => Kind::Write,
            b"BEGIN" | b"START" => Kind::Begin,
            b"COMMIT" | b"END" => Kind::End(b"COMMIT\0"),
            b"ROLLBACK" | b"ABORT" => Kind::End(b"ROLLBACK\0"),
            b"SET" | b"RESET" | b"DISCARD" | b"DEALLOCATE" => Kind::Set,
            b"COPY" => Kind::Copy(first_number(rest)),
            b"SELECT" if rest.starts_with(b" repeat(") => Kind::Row(first_number(rest)),
            _ => Kind::Select,
        }
    }
}

/// The first decimal number in a text, or 0.
fn first_number(text: &[u8]) -> usize {
    let digits = text.iter().skip_while(|c| !c.is_ascii_digit()).take_while(|c| c.is_ascii_digit());
    digits.fold(0usize, |n, c| (n * 10 + usize::from(c - b'0')).min(RESULT_MAX))
}

/// The value that a startup packet gives a parameter, or nothing.
fn startup_parameter(packet: &[u8], name: &str) -> String {
    let mut strings = packet.get(8..).unwrap_or_default().split(|b| *b == 0);
    while let (Some(key), Some(value)) = (strings.next(), strings.next()) {
        if key == name.as_bytes() {
            return String::from_utf8_lossy(value).into_owned();
        }
    }
    String::new()
}

/// The name that a `SET application_name` gives. It must be reported as PostgreSQL would: some poolers set it again
/// before every query for as long as they do not see it change.
fn set_application_name(sql: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(sql);
    let (_, rest) = text.split_once("application_name")?;
    rest.split('\'').nth(1).map(str::to_owned)
}

/// The time zone that a call of `set_config` sets, as pgsluice writes one.
fn set_time_zone(sql: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(sql);
    let (_, rest) = text.split_once("set_config('timezone','")?;
    rest.split('\'').next().map(str::to_owned)
}

/// One client of ours, in practice a pooler.
struct Connection {
    stream: Stream,
    number: u32,
    started: bool,
    in_transaction: bool,
    /// Its time zone now, and as it was reported last.
    time_zone: [String; 2],
    /// The audit was executed.
    audited: bool,
    /// What the unnamed portal will run.
    portal: Kind,
    /// An incomplete message.
    partial: Vec<u8>,
    /// Bytes that wait for the socket or for the delay.
    out: Vec<u8>,
    blocked: bool,
}

impl Connection {
    fn new(stream: Stream, number: u32) -> Self {
        Self {
            stream,
            number,
            started: false,
            in_transaction: false,
            time_zone: [(); 2].map(|()| proto::TIME_ZONE.to_owned()),
            audited: false,
            portal: Kind::Select,
            partial: Vec::new(),
            out: Vec::new(),
            blocked: false,
        }
    }

    /// Reads and answers what there is. False when the connection has ended.
    fn read(&mut self, buffer: &mut [u8], answers: &Answers) -> bool {
        loop {
            let n = match (&self.stream).read(buffer) {
                Ok(0) => return false,
                Ok(n) => n,
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            };
            if !self.take(&buffer[..n], answers) {
                return false;
            }
            if n < buffer.len() {
                return true;
            }
        }
    }

    /// Answers the complete messages of what was received. False when the connection is to be closed.
    fn take(&mut self, received: &[u8], answers: &Answers) -> bool {
        if self.partial.is_empty() {
            let Some(used) = self.messages(received, answers) else { return false };
            self.partial.extend_from_slice(&received[used..]);
        } else {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(received);
            let Some(used) = self.messages(&all, answers) else { return false };
            all.drain(..used);
            self.partial = all;
        }
        true
    }

    /// Answers the complete messages at the start of `bytes`; returns how many bytes they took, or `None` when the
    /// connection is to be closed.
    fn messages(&mut self, bytes: &[u8], answers: &Answers) -> Option<usize> {
        let mut at = 0;
        while !self.started {
            match proto::startup_step(&bytes[at..]) {
                Startup::More => return Some(at),
                Startup::Close => return None,
                Startup::Encryption(n) => {
                    self.out.push(b'N');
                    at += n;
                }
                Startup::Start(n) => {
                    let name = startup_parameter(&bytes[at..at + n], "application_name");
                    self.out.extend(proto::startup_reply(self.number, 42, &name));
                    self.started = true;
                    at += n;
                }
            }
        }
        while let (Some(&tag), Some(length)) = (bytes.get(at), proto::be32(bytes, at + 1)) {
            let end = at + 1 + length as usize;
            if length < 4 || tag == b'X' {
                return None;
            }
            let Some(body) = bytes.get(at + 5..end) else { break };
            self.answer(tag, body, answers);
            at = end;
        }
        Some(at)
    }

    fn answer(&mut self, tag: u8, body: &[u8], answers: &Answers) {
        match tag {
            b'Q' => self.simple(body, answers),
            b'P' => {
                if let Some(sql) = body.strip_prefix(b"\0") {
                    self.portal = Kind::of(sql);
                }
                self.put(b'1', b"");
            }
            b'B' => {
                if body.split(|b| *b == 0).nth(1) == Some(AUDIT) {
                    self.portal = Kind::Nothing;
                    self.audited = true;
                }
                self.put(b'2', b"");
            }
            b'C' => self.put(b'3', b""),
            b'D' => self.describe(body.first() == Some(&b'S'), answers),
            b'E' => self.run(self.portal, answers),
            b'S' => {
                self.ready();
                self.portal = Kind::Select;
            }
            _ => {}
        }
    }

    fn simple(&mut self, sql: &[u8], answers: &Answers) {
        let kind = Kind::of(sql);
        let several = kind != Kind::Nothing && sql.iter().position(|b| *b == b';').is_some_and(|at| at + 2 < sql.len());
        if kind == Kind::Select && !self.in_transaction && !several {
            self.out.extend_from_slice(&answers.simple);
            return;
        }
        if several {
            let statements = sql.split(|b| matches!(b, b';' | 0)).filter(|statement| !statement.is_empty());
            statements.for_each(|statement| self.statement(Kind::of(statement), statement, answers));
        } else {
            self.statement(kind, sql, answers);
        }
        self.ready();
    }

    fn statement(&mut self, kind: Kind, sql: &[u8], answers: &Answers) {
        if matches!(kind, Kind::Select | Kind::Row(_)) {
            self.out.extend_from_slice(&answers.description);
        }
        self.run(kind, answers);
        if let (Kind::Set, Some(name)) = (kind, set_application_name(sql)) {
            self.put(b'S', &proto::parameter("application_name", &name));
        }
        if sql.starts_with(b"RESET ALL") {
            self.time_zone[0] = proto::TIME_ZONE.to_owned();
        } else if let (Kind::Select, Some(zone)) = (kind, set_time_zone(sql)) {
            self.time_zone[0] = zone;
        }
    }

    fn describe(&mut self, statement: bool, answers: &Answers) {
        if statement {
            self.put(b't', &[0, 0]);
        }
        match self.portal {
            Kind::Select | Kind::Row(_) => self.out.extend_from_slice(&answers.description),
            _ => self.put(b'n', b""),
        }
    }

    fn run(&mut self, kind: Kind, answers: &Answers) {
        match kind {
            Kind::Select => {
                self.out.extend_from_slice(&answers.row);
                self.put(b'C', b"SELECT 1\0");
            }
            Kind::Row(size) => {
                self.out.extend(proto::data_row(size));
                self.put(b'C', b"SELECT 1\0");
            }
            Kind::Copy(size) => self.copy_out(size / COPY_LINE, answers),
            Kind::Begin => {
                self.in_transaction = true;
                self.put(b'C', b"BEGIN\0");
            }
            Kind::End(tag) => {
                self.in_transaction = false;
                self.put(b'C', tag);
            }
            Kind::Nothing => self.put(b'C', b"SELECT 0\0"),
            Kind::Write => self.put(b'C', b"UPDATE 1\0"),
            Kind::Set => self.put(b'C', b"SET\0"),
        }
    }

    fn copy_out(&mut self, lines: usize, answers: &Answers) {
        self.put(b'H', &[0, 0, 1, 0, 0]); // text, one column
        for _ in 0..lines {
            self.out.extend_from_slice(&answers.copy_line);
        }
        self.put(b'c', b"");
        self.put(b'C', format!("COPY {lines}\0").as_bytes());
    }

    fn ready(&mut self) {
        if !self.in_transaction && self.time_zone[0] != self.time_zone[1] {
            self.time_zone[1] = self.time_zone[0].clone();
            let report = proto::parameter("TimeZone", &self.time_zone[1]);
            self.put(b'S', &report);
        }
        self.put(b'Z', if self.in_transaction { b"T" } else { b"I" });
    }

    fn put(&mut self, tag: u8, body: &[u8]) {
        proto::put_message(&mut self.out, tag, body);
    }

    /// Sends what waits, as far as the socket takes it. False when the connection has ended.
    fn flush(&mut self) -> bool {
        let mut sent = 0;
        self.blocked = false;
        while sent < self.out.len() && !self.blocked {
            match (&self.stream).write(&self.out[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(_) => return false,
            }
        }
        self.out.drain(..sent);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_by_their_first_word() {
        assert_eq!(Kind::of(b"SELECT 1\0"), Kind::Select);
        assert_eq!(Kind::of(b" select repeat('x', 8192)\0"), Kind::Row(8192));
        assert_eq!(Kind::of(b"COPY (SELECT 1048576) TO STDOUT\0"), Kind::Copy(1_048_576));
        assert_eq!(Kind::of(b"begin;\0"), Kind::Begin);
        assert_eq!(Kind::of(b"ROLLBACK\0"), Kind::End(b"ROLLBACK\0"));
        assert_eq!(Kind::of(b"DISCARD ALL\0"), Kind::Set);
        assert_eq!(Kind::of(b"update t SET a = 1;\0"), Kind::Write);
        assert_eq!(Kind::of(b"-- What there is.\nSELECT * FROM pg_proc\0"), Kind::Nothing);
        assert_eq!(Kind::of(b""), Kind::Select);
    }

    #[test]
    fn application_names() {
        assert_eq!(startup_parameter(&proto::startup("u", "d", &[]), "application_name"), "loadgen");
        assert_eq!(startup_parameter(b"\0\0\0\x09\0\x03\0\0\0", "application_name"), "");
        assert_eq!(set_application_name(b"SET application_name='x';\0").as_deref(), Some("x"));
        assert_eq!(set_application_name(b"SET datestyle='ISO';\0"), None);
    }

    #[test]
    fn time_zones() {
        let sets = b"SELECT pg_catalog.set_config('timezone','Asia/Tokyo',false)";
        assert_eq!(set_time_zone(sets).as_deref(), Some("Asia/Tokyo"));
        assert_eq!(set_time_zone(b"SELECT 1"), None);
    }

    #[test]
    fn a_number_is_bounded() {
        assert_eq!(first_number(b"x 99999999999999999999999"), RESULT_MAX);
        assert_eq!(first_number(b"none"), 0);
    }

    #[test]
    fn a_connection_answers_messages_cut_anywhere() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let whole = [proto::startup("u", "d", &[]), proto::query("BEGIN"), proto::parse("", "SELECT 1"), proto::sync()]
            .concat();
        let answers = Answers::new();
        let mut expected = None;
        for size in [whole.len(), 1, 7] {
            let mut connection = Connection::new(Stream::Unix(ours.try_clone().unwrap()), 0);
            assert!(whole.chunks(size).all(|chunk| connection.take(chunk, &answers)));
            assert!(connection.out.ends_with(b"Z\0\0\0\x05T"), "in a transaction block");
            assert_eq!(expected.get_or_insert_with(|| connection.out.clone()), &connection.out);
        }
    }
}
