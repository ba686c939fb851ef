//! One connection of the load generator: logged in, prepared, then driven request by request.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::script::{Script, Step};
use crate::login::{Credentials, log_in};
use crate::net::{Addr, Stream};
use crate::proto::Scanner;

/// A blocking read fails after this long, so that a pooler that hangs ends the run.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pooler's or server's address.
    pub addr: Addr,
    /// Who logs in.
    pub credentials: Credentials,
    /// Encrypted, to a server that this trusts.
    pub tls: Option<Arc<ClientConfig>>,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    pub(super) stream: Stream,
    scanner: Scanner,
    /// The request it is at.
    pub(super) step: usize,
    /// ReadyForQuery messages still missing.
    waiting: u32,
    /// When the request was sent or due; `None` between requests.
    pub(super) started: Option<Instant>,
    /// ErrorResponse messages so far.
    pub(super) errors: u64,
}

impl Client {
    /// Connects and logs in; the socket is blocking.
    ///
    /// # Errors
    /// The socket's and the login's.
    pub fn open(target: &Target) -> io::Result<Self> {
        Self::open_with(target, &[])
    }

    /// The same with settings in its startup message: names and values in turn.
    ///
    /// # Errors
    /// The socket's and the login's.
    pub fn open_with(target: &Target, settings: &[&str]) -> io::Result<Self> {
        let mut stream = Stream::connect(&target.addr)?;
        stream.set_read_timeout(READ_TIMEOUT)?;
        if let Some(config) = &target.tls {
            stream = stream.encrypt(config.clone())?;
        }
        log_in(&stream, &target.credentials, settings)?;
        Ok(Self { stream, scanner: Scanner::default(), step: 0, waiting: 0, started: None, errors: 0 })
    }

    /// Whether it took up an encrypted session again.
    pub fn is_resumed(&self) -> bool {
        if let Stream::Tls(stream) = &self.stream { stream.is_resumed() } else { false }
    }

    /// Connects, logs in, prepares and turns non-blocking.
    pub(super) fn open_prepared(target: &Target, script: &Script) -> io::Result<Self> {
        let mut client = Self::open(target)?;
        if let Some(step) = &script.prepare {
            client.request(step)?;
        }
        client.stream.set_nonblocking()?;
        Ok(client)
    }

    /// One blocking request.
    ///
    /// # Errors
    /// The socket's; `Other` if the answer holds an ErrorResponse.
    pub fn request(&mut self, step: &Step) -> io::Result<()> {
        self.ask(step)?;
        self.hear()
    }

    /// The first half of a request: sends it and returns at once.
    ///
    /// # Errors
    /// The socket's.
    pub fn ask(&mut self, step: &Step) -> io::Result<()> {
        self.waiting = step.replies;
        (&self.stream).write_all(&step.bytes)
    }

    /// The other half: waits for the answer.
    ///
    /// # Errors
    /// The socket's; `Other` if the answer holds an ErrorResponse.
    pub fn hear(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while self.is_waiting() {
            self.take(&mut buffer)?;
        }
        if self.errors > 0 { Err(io::Error::other("the server answered with an error")) } else { Ok(()) }
    }

    /// Whether a part of the answer is still missing.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Reads some of the answer, blocking; how many bytes.
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (&self.stream).read(buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.scan(&buffer[..n])?;
        Ok(n)
    }

    /// Sends the request it is at, non-blocking; latency counts from `due`.
    pub(super) fn send(&mut self, script: &Script, due: Instant) -> io::Result<()> {
        let step = &script.steps[self.step];
        self.waiting = step.replies;
        self.started = Some(due);
        let n = (&self.stream).write(&step.bytes)?;
        if n != step.bytes.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the request is too large for the socket's buffer"));
        }
        Ok(())
    }

    /// Reads what there is, non-blocking. True when the request is answered.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            match (&self.stream).read(buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed a connection")),
                Ok(n) => {
                    self.scan(&buffer[..n])?;
                    if self.stream.is_drained(n, buffer.len()) {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(self.waiting == 0 && self.started.is_some())
    }

    fn scan(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (waiting, errors) = (&mut self.waiting, &mut self.errors);
        self.scanner.feed(bytes, |tag| match tag {
            b'Z' => *waiting = waiting.saturating_sub(1),
            b'E' => *errors += 1,
            _ => {}
        })
    }
}

/// Opens clients that stay idle while they live, after one round of the script each.
///
/// # Errors
/// Those of the first client that fails.
pub fn open_idle(target: &Target, count: usize, script: &Script) -> io::Result<Vec<Client>> {
    (0..count)
        .map(|_| {
            let mut client = Client::open(target)?;
            for step in script.prepare.iter().chain(&script.steps) {
                client.request(step)?;
            }
            Ok(client)
        })
        .collect()
}
