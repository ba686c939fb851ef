//! A small blocking client that speaks the v3 protocol message by message, for what drivers never send. It
//! shares no code with the pooler, on purpose: a mistake in one must not hide behind the same mistake in
//! the other. Only the SCRAM and MD5 computations come from a crate. Shapes follow the PostgreSQL manual,
//! "Message Formats".

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres_protocol::authentication::{md5_hash, sasl};

pub mod message;

/// A reply that takes longer than this is a failure; long enough for a busy two-core machine.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// What is read of a message at once when it is not to be held.
const SKIM_LEN: usize = 64 << 10;

/// A message that was read and let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skimmed {
    /// The type byte.
    pub tag: u8,
    /// Bytes of its body.
    pub length: usize,
    /// The last of them, 64 KiB at most: all of a short one.
    pub end: Vec<u8>,
}

/// One message from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// The type byte.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl Reply {
    /// The text of a field of an ErrorResponse or NoticeResponse: 'S' severity, 'C' SQLSTATE, 'M' message.
    pub fn field(&self, code: u8) -> String {
        let fields = self.body.split(|&byte| byte == 0);
        fields.filter(|f| f.first() == Some(&code)).map(|f| text(&f[1..])).next().unwrap_or_default()
    }

    /// The SQLSTATE of an ErrorResponse.
    pub fn sqlstate(&self) -> String {
        self.field(b'C')
    }

    /// The values of a DataRow as text.
    pub fn values(&self) -> Vec<Option<String>> {
        let mut rest = &self.body[2..];
        let count = u16::from_be_bytes([self.body[0], self.body[1]]);
        (0..count).map(|_| take_value(&mut rest)).collect()
    }

    /// The column names of a RowDescription.
    pub fn columns(&self) -> Vec<String> {
        self.column_types().into_iter().map(|(name, _)| name).collect()
    }

    /// The column names and type oids of a RowDescription.
    pub fn column_types(&self) -> Vec<(String, u32)> {
        let mut rest = &self.body[2..];
        let count = u16::from_be_bytes([self.body[0], self.body[1]]);
        (0..count).map(|_| take_column(&mut rest)).collect()
    }
}

/// One line per message, stable enough to compare: `1`, `D 1|NULL`, `C SELECT 1`, `E 42601`, `Z I`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        match self.tag {
            b'D' => {
                let values = self.values().into_iter().map(|v| v.unwrap_or_else(|| "NULL".into()));
                write!(f, "D {}", values.collect::<Vec<_>>().join("|"))
            }
            b'T' => write!(f, "T {}", self.columns().join("|")),
            b'E' | b'N' => write!(f, "{tag} {}", self.sqlstate()),
            b'C' | b'd' => write!(f, "{tag} {}", text(&self.body).trim_end_matches(['\0', '\n'])),
            b'Z' => write!(f, "Z {}", text(&self.body)),
            b't' => {
                let oids = self.body[2..].chunks_exact(4).map(oid_text).collect::<String>();
                write!(f, "t{oids}")
            }
            _ => write!(f, "{tag}"),
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tag {
            b'E' | b'N' => write!(f, "{self} {:?}", self.field(b'M')),
            _ => write!(f, "{self}"),
        }
    }
}

/// Why a login did not end in ReadyForQuery.
#[derive(Debug)]
pub enum LoginError {
    /// The socket failed or closed.
    Io(io::Error),
    /// The server sent an ErrorResponse.
    Refused(Reply),
    /// The server asked for something this client does not know.
    Unexpected(Reply),
}

impl LoginError {
    /// The SQLSTATE of a refusal, empty for the rest.
    pub fn sqlstate(&self) -> String {
        match self {
            LoginError::Refused(reply) => reply.sqlstate(),
            LoginError::Io(_) | LoginError::Unexpected(_) => String::new(),
        }
    }
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> Self {
        LoginError::Io(error)
    }
}

/// A connection.
pub struct Raw {
    reader: BufReader<TcpStream>,
    /// The backend's process id as BackendKeyData told it.
    pub pid: i32,
    /// The cancel key as BackendKeyData told it.
    pub secret: Vec<u8>,
    /// The body of NegotiateProtocolVersion, if it came: version, number of unknown options, their names.
    pub negotiated: Option<Vec<u8>>,
    /// What ParameterStatus has told so far.
    pub parameters: BTreeMap<String, String>,
}

impl Raw {
    /// Opens the socket and nothing more.
    pub fn open(addr: SocketAddr) -> io::Result<Raw> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Raw {
            reader: BufReader::new(stream),
            pid: 0,
            secret: Vec::new(),
            negotiated: None,
            parameters: BTreeMap::new(),
        })
    }

    /// Logs in and waits for ReadyForQuery.
    pub fn connect(addr: SocketAddr, user: &str, password: &str, database: &str) -> Result<Raw, LoginError> {
        Raw::connect_with(addr, password, &[("user", user), ("database", database)])
    }

    /// As [`Raw::connect`], with the startup parameters given in full.
    pub fn connect_with(addr: SocketAddr, password: &str, parameters: &[(&str, &str)]) -> Result<Raw, LoginError> {
        let mut raw = Raw::open(addr)?;
        raw.send(&message::startup(parameters))?;
        raw.authenticate(parameters[0].1, password)?;
        Ok(raw)
    }

    /// As [`Raw::connect_with`], asking for a protocol version: major and minor, 16 bits each.
    pub fn connect_version(
        addr: SocketAddr,
        version: u32,
        password: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Raw, LoginError> {
        let mut raw = Raw::open(addr)?;
        raw.send(&message::startup_version(version, parameters))?;
        raw.authenticate(parameters[0].1, password)?;
        Ok(raw)
    }

    /// Answers authentication requests until ReadyForQuery. The startup message has been sent already.
    pub fn authenticate(&mut self, user: &str, password: &str) -> Result<(), LoginError> {
        let mut scram = None;
        loop {
            let reply = self.recv()?;
            match reply.tag {
                b'R' => self.answer(&reply, user, password, &mut scram)?,
                b'K' => {
                    self.pid = i32::from_be_bytes(reply.body[..4].try_into().expect("four bytes"));
                    self.secret = reply.body[4..].to_vec();
                }
                b'v' => self.negotiated = Some(reply.body),
                b'Z' => return Ok(()),
                b'N' | b'S' => {}
                b'E' => return Err(LoginError::Refused(reply)),
                _ => return Err(LoginError::Unexpected(reply)),
            }
        }
    }

    /// The peer's address.
    pub fn addr(&self) -> SocketAddr {
        self.reader.get_ref().peer_addr().expect("a connected socket has a peer")
    }

    /// Writes bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream().write_all(bytes)
    }

    /// Writes bytes from a thread of its own, so that the caller can read meanwhile: a peer that stops
    /// reading until its answers are read must not deadlock the test.
    pub fn send_aside(&self, bytes: Vec<u8>) -> JoinHandle<io::Result<()>> {
        let mut stream = self.reader.get_ref().try_clone().expect("a socket can be shared");
        std::thread::spawn(move || stream.write_all(&bytes))
    }

    /// Writes `front`, so many bytes `x`, and `back`, without holding them, in a thread of its own as
    /// [`Raw::send_aside`] does.
    pub fn send_filled(&self, front: Vec<u8>, filling: usize, back: Vec<u8>) -> JoinHandle<io::Result<()>> {
        let mut stream = self.reader.get_ref().try_clone().expect("a socket can be shared");
        std::thread::spawn(move || {
            stream.write_all(&front)?;
            let part = [b'x'; SKIM_LEN];
            let mut left = filling;
            while left > 0 {
                let n = left.min(part.len());
                stream.write_all(&part[..n])?;
                left -= n;
            }
            stream.write_all(&back)
        })
    }

    /// Reads one message. ParameterStatus is noted as well as returned.
    pub fn recv(&mut self) -> io::Result<Reply> {
        let mut head = [0; 5];
        self.reader.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        assert!((4..1 << 30).contains(&length), "a message of type {:?} claims {length} bytes", char::from(head[0]));
        let mut body = vec![0; length - 4];
        self.reader.read_exact(&mut body)?;
        let reply = Reply { tag: head[0], body };
        if reply.tag == b'S' {
            let mut parts = reply.body.split(|&byte| byte == 0).map(text);
            self.parameters.insert(parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        }
        Ok(reply)
    }

    /// Reads one message of any length without holding it: its type, its length without the head, and its last bytes.
    pub fn recv_unheld(&mut self) -> io::Result<Skimmed> {
        let mut head = [0; 5];
        self.reader.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        assert!(length >= 4, "a message of type {:?} claims {length} bytes", char::from(head[0]));
        let mut left = length - 4;
        let mut part = vec![0; left.min(SKIM_LEN)];
        while left > part.len() {
            let n = part.len().min(left - part.len());
            self.reader.read_exact(&mut part[..n])?;
            left -= n;
        }
        self.reader.read_exact(&mut part[..left])?;
        part.truncate(left);
        Ok(Skimmed { tag: head[0], length: length - 4, end: part })
    }

    /// Reads until ReadyForQuery, ParameterStatus left out.
    ///
    /// # Panics
    /// When the connection closes or stays silent: what came before is in the message.
    pub fn until_ready(&mut self) -> Vec<Reply> {
        self.until(|reply| reply.tag == b'Z')
    }

    /// Reads until a reply for which `last` holds, ParameterStatus left out. Panics as `until_ready` does.
    pub fn until(&mut self, last: impl Fn(&Reply) -> bool) -> Vec<Reply> {
        let mut replies = Vec::new();
        loop {
            match self.recv() {
                Ok(reply) if reply.tag == b'S' => {}
                Ok(reply) => {
                    let end = last(&reply);
                    replies.push(reply);
                    if end {
                        return replies;
                    }
                }
                Err(error) => panic!("{error} after {replies:?}"),
            }
        }
    }

    /// Whether nothing arrives for `quiet`.
    pub fn silent_for(&mut self, quiet: Duration) -> bool {
        if !self.reader.buffer().is_empty() {
            return false;
        }
        self.stream().set_read_timeout(Some(quiet)).expect("not zero");
        let outcome = self.stream().peek(&mut [0]);
        self.stream().set_read_timeout(Some(REPLY_TIMEOUT)).expect("not zero");
        matches!(outcome, Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }

    /// Reads to the end of the stream and returns what still came; None when it stays open for `limit`.
    pub fn until_closed(&mut self, limit: Duration) -> Option<Vec<Reply>> {
        self.stream().set_read_timeout(Some(limit)).expect("not zero");
        let mut replies = Vec::new();
        loop {
            match self.recv() {
                Ok(reply) => replies.push(reply),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return None,
                Err(_) => return Some(replies),
            }
        }
    }

    /// Sends bytes and reads until ReadyForQuery.
    pub fn exchange(&mut self, bytes: &[u8]) -> Vec<Reply> {
        self.send(bytes).expect("the peer accepts bytes");
        self.until_ready()
    }

    /// A simple Query and all its replies.
    pub fn query(&mut self, sql: &str) -> Vec<Reply> {
        self.exchange(&message::query(sql))
    }

    /// The rows of a simple Query; the first ErrorResponse instead if there is one.
    pub fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Reply> {
        let replies = self.query(sql);
        match replies.iter().find(|reply| reply.tag == b'E') {
            Some(error) => Err(error.clone()),
            None => Ok(replies.iter().filter(|reply| reply.tag == b'D').map(Reply::values).collect()),
        }
    }

    /// As [`Raw::rows`], on a connection that may have ended or end now: `None`.
    pub fn try_rows(&mut self, sql: &str) -> Option<Result<Vec<Vec<Option<String>>>, Reply>> {
        self.send(&message::query(sql)).ok()?;
        let (mut rows, mut error) = (Vec::new(), None);
        loop {
            let reply = self.recv().ok()?;
            match reply.tag {
                b'D' => rows.push(reply.values()),
                b'E' => error = error.or(Some(reply)),
                b'Z' => return Some(error.map_or(Ok(rows), Err)),
                _ => {}
            }
        }
    }

    /// Runs SQL that must not fail.
    pub fn run(&mut self, sql: &str) {
        if let Err(error) = self.rows(sql) {
            panic!("{sql}: {error:?}");
        }
    }

    /// The only value of the only row of a query that must not fail.
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows[0][0].clone().unwrap_or_default()
    }

    /// Sends a CancelRequest for this connection's key on a socket of its own and waits for its close.
    pub fn cancel(&self) -> io::Result<()> {
        cancel(self.addr(), self.pid, &self.secret)
    }

    /// Closes one direction: nothing more will be sent.
    pub fn half_close(&self) -> io::Result<()> {
        self.reader.get_ref().shutdown(Shutdown::Write)
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    fn answer(
        &mut self,
        reply: &Reply,
        user: &str,
        password: &str,
        scram: &mut Option<sasl::ScramSha256>,
    ) -> Result<(), LoginError> {
        let data = &reply.body[4..];
        match reply.body[3] {
            0 => Ok(()),
            3 => Ok(self.send(&message::password(password.as_bytes()))?),
            5 => {
                let salt = data.try_into().expect("an MD5 salt has four bytes");
                Ok(self.send(&message::password(md5_hash(user.as_bytes(), password.as_bytes(), salt).as_bytes()))?)
            }
            10 => {
                let exchange = sasl::ScramSha256::new(password.as_bytes(), sasl::ChannelBinding::unsupported());
                self.send(&message::sasl_initial("SCRAM-SHA-256", exchange.message()))?;
                *scram = Some(exchange);
                Ok(())
            }
            11 => {
                let exchange = scram.as_mut().expect("SASLContinue follows SASL");
                exchange.update(data)?;
                Ok(self.send(&message::tagged(b'p', exchange.message()))?)
            }
            12 => Ok(scram.as_mut().expect("SASLFinal follows SASL").finish(data)?),
            _ => Err(LoginError::Unexpected(reply.clone())),
        }
    }
}

/// Sends a CancelRequest and waits until the peer closes, so that it has been dealt with.
pub fn cancel(addr: SocketAddr, pid: i32, secret: &[u8]) -> io::Result<()> {
    let mut raw = Raw::open(addr)?;
    raw.send(&message::cancel(pid, secret))?;
    raw.stream().read_to_end(&mut Vec::new()).map(drop)
}

/// The replies one line each, as [`Reply`] displays them.
pub fn show(replies: &[Reply]) -> Vec<String> {
    replies.iter().map(Reply::to_string).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn oid_text(bytes: &[u8]) -> String {
    format!(" {}", u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn take_value(rest: &mut &[u8]) -> Option<String> {
    let length = i32::from_be_bytes(rest[..4].try_into().expect("four bytes"));
    *rest = &rest[4..];
    let (value, after) = rest.split_at(usize::try_from(length).ok()?);
    *rest = after;
    Some(text(value))
}

fn take_column(rest: &mut &[u8]) -> (String, u32) {
    let end = rest.iter().position(|&byte| byte == 0).expect("a column name ends");
    let name = text(&rest[..end]);
    let after = &rest[end + 1..];
    let oid = u32::from_be_bytes(after[6..10].try_into().expect("four bytes"));
    *rest = &after[18..];
    (name, oid)
}
