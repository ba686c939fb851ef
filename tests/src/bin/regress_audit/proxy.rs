//! One client's connection: its messages go to a PostgreSQL connection of its own and back, unchanged. Before a client is told
//! that its transaction is over, the question of [`probe`] is put on that connection and answered, unseen by the client.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use pgsluice_sql::Suspects;
use pgsluice_tests::wire::{Raw, Reply, message};

use crate::probe::{self, State};
use crate::report::Report;
use crate::verdict::{Block, Row};

/// Codes of the messages without a type byte, besides StartupMessage (`src/include/libpq/pqcomm.h`).
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// Serves a client to its end. An error of a socket ends both connections, which the client notices.
pub(crate) fn serve(client: TcpStream, server: SocketAddr, report: &Arc<Report>) {
    // Nobody is left to be told.
    let _ = try_serve(client, server, report);
}

fn try_serve(mut client: TcpStream, address: SocketAddr, report: &Arc<Report>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (code, startup) = loop {
        let (code, message) = first_message(&mut client)?;
        match code {
            SSL | GSSENC => client.write_all(b"N")?,
            _ => break (code, message),
        }
    };
    let mut server = TcpStream::connect(address)?;
    server.set_nodelay(true)?;
    server.write_all(&startup)?;
    if code == CANCEL {
        return server.read_to_end(&mut Vec::new()).map(drop);
    }
    let parameters = parameters(&startup);
    let get = |name: &str| parameters.get(name).cloned().unwrap_or_default();
    let sent = Arc::new(Mutex::new(Sent { server: server.try_clone()?, block: Block::default(), ran: true }));
    let connection = Connection {
        script: get("application_name").trim_start_matches("pg_regress/").to_owned(),
        database: get("database"),
        address,
        sent: sent.clone(),
        report: report.clone(),
        state: None,
    };
    let reader = client.try_clone()?;
    let shared = report.clone();
    let there = std::thread::spawn(move || pass_on(reader, &sent, &shared));
    let outcome = connection.pass_back(server, &client);
    // Whichever has ended first.
    let _ = client.shutdown(Shutdown::Both);
    let _ = there.join();
    outcome
}

/// The client's half, shared by both threads.
struct Sent {
    server: TcpStream,
    /// Since the last answered question.
    block: Block,
    /// Something was executed since.
    ran: bool,
}

/// From the client to the server, message by message.
fn pass_on(client: TcpStream, sent: &Mutex<Sent>, report: &Report) -> io::Result<()> {
    let mut client = BufReader::new(client);
    loop {
        let next = read_message(&mut client);
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(message) = next else { return sent.server.shutdown(Shutdown::Write) };
        let body = &message[5..];
        let text = match message[0] {
            b'Q' => body.split(|byte| *byte == 0).next(),
            b'P' => body.split(|byte| *byte == 0).nth(1),
            _ => None,
        };
        if let Some(text) = text {
            report.sent(probe::dotted(text));
            sent.block.texts.push(text.to_vec());
        }
        sent.block.call |= message[0] == b'F';
        sent.ran |= matches!(message[0], b'Q' | b'E' | b'F');
        sent.server.write_all(&message)?;
    }
}

/// The server's half.
struct Connection {
    /// The test that the client runs, as pg_regress tells it in `application_name`.
    script: String,
    database: String,
    address: SocketAddr,
    sent: Arc<Mutex<Sent>>,
    report: Arc<Report>,
    /// When last asked; `None` before the first time.
    state: Option<State>,
}

impl Connection {
    /// From the server to the client, message by message.
    fn pass_back(mut self, server: TcpStream, client: &TcpStream) -> io::Result<()> {
        let mut server = BufReader::new(server);
        let mut client = BufWriter::new(client);
        loop {
            let message = read_message(&mut server)?;
            if message == [b'Z', 0, 0, 0, 5, b'I'] {
                self.compare(&mut server, &mut client)?;
            }
            client.write_all(&message)?;
            if server.buffer().is_empty() {
                client.flush()?;
            }
        }
    }

    /// Asks, and compares with the last answer. Where there is no answer, what was sent counts as sent before the next one.
    fn compare(&mut self, server: &mut impl Read, client: &mut impl Write) -> io::Result<()> {
        let sent = self.sent.clone();
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        // A statement that is described only still has to be there when it is asked for.
        if !std::mem::take(&mut sent.ran) {
            return Ok(());
        }
        let names = self.report.names();
        sent.server.write_all(&message::query(&probe::query(names.iter().map(|name| &**name))))?;
        let state = match answer(server, client)? {
            Ok(state) => state,
            Err(why) => {
                self.report.failed(&self.script, &sent.block, &why);
                return Ok(());
            }
        };
        let block = std::mem::take(&mut sent.block);
        let Some(before) = self.state.replace(state.clone()) else {
            self.report.connected();
            return Ok(());
        };
        let noted = self.report.noted(&block);
        let changes = before.changes(&state);
        if !changes.is_empty() {
            let cause = block.cause(&changes, &noted, || self.catalog());
            self.report.changed(&self.script, &block, &changes, cause);
        }
        Ok(())
    }

    /// What the database has now that can change a session's state. None, if it cannot be asked.
    fn catalog(&self) -> Vec<Row> {
        let asked =
            Raw::connect(self.address, "postgres", "", &self.database).map(|mut asks| asks.rows(Suspects::QUERY));
        let rows = asked.ok().and_then(Result::ok).unwrap_or_default().into_iter();
        let rows = rows.filter_map(|row| row.into_iter().collect::<Option<Vec<_>>>());
        rows.filter_map(|row| row.try_into().ok()).collect()
    }
}

/// Reads the answer of the question to its end; what PostgreSQL sends unasked meanwhile is for the client.
fn answer(server: &mut impl Read, client: &mut impl Write) -> io::Result<Result<State, String>> {
    let (mut rows, mut error) = (Vec::new(), None);
    loop {
        let message = read_message(server)?;
        let reply = Reply { tag: message[0], body: message[5..].to_vec() };
        match reply.tag {
            b'D' => rows.push(reply),
            b'E' => error = Some(reply.field(b'M')),
            b'A' | b'S' => client.write_all(&message)?,
            b'Z' => break,
            _ => {}
        }
    }
    Ok(match error {
        Some(error) => Err(error),
        None => State::from_rows(&rows).ok_or_else(|| "an answer of another form".to_owned()),
    })
}

/// A message with its head.
fn read_message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message)?;
    read_body(from, message, 1)
}

/// A message without a type byte, and the code that it begins with.
fn first_message(from: &mut impl Read) -> io::Result<(u32, Vec<u8>)> {
    let mut message = vec![0; 8];
    from.read_exact(&mut message)?;
    let code = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
    Ok((code, read_body(from, message, 0)?))
}

/// The rest of a message whose length stands `at` this place and counts from there.
fn read_body(from: &mut impl Read, mut message: Vec<u8>, at: usize) -> io::Result<Vec<u8>> {
    let length = u32::from_be_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]) as usize;
    let read = message.len();
    if at + length < read || length >= 1 << 30 {
        return Err(io::Error::other("a message without a possible length"));
    }
    message.resize(at + length, 0);
    from.read_exact(&mut message[read..])?;
    Ok(message)
}

/// The parameters of a StartupMessage.
fn parameters(startup: &[u8]) -> BTreeMap<String, String> {
    let mut texts = startup[8..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    let mut parameters = BTreeMap::new();
    while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
        parameters.insert(name, value);
    }
    parameters
}
