//! A server that speaks just enough to log a pooler in and to answer a query with its own text, and that does what a
//! test says where PostgreSQL never would. It is not a model of PostgreSQL.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::wire::message as m;

/// What it does on a connection; the connection is closed when it fails.
pub type Act = fn(&mut TcpStream) -> io::Result<()>;

/// The query that has [`Script::query`] done.
pub const CUE: &str = "misbehave";

/// What it does in place of what a server should.
#[derive(Clone, Copy)]
pub struct Script {
    /// Once the startup message is read.
    pub login: Act,
    /// When asked to [`CUE`].
    pub query: Act,
    /// When sent a Parse.
    pub parse: Act,
    /// When a cancel request comes.
    pub cancel: Act,
    /// When the control connection asks for the limits.
    pub limits: Act,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            login: log_in,
            query: |stream| answer(stream, CUE),
            parse: |stream| stream.write_all(&m::tagged(b'1', b"")),
            cancel: |_| Ok(()),
            limits: tell_limits,
        }
    }
}

/// Listens until the test program ends.
pub struct Fake {
    port: u16,
}

impl Fake {
    /// Starts it.
    pub fn start(script: Script) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that ends early is what some scripts are about.
                std::thread::spawn(move || serve(stream, script).ok());
            }
        });
        Fake { port }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn serve(mut stream: TcpStream, script: Script) -> io::Result<()> {
    const CANCEL: [u8; 4] = 80_877_102_u32.to_be_bytes();
    const SSL: [u8; 4] = 80_877_103_u32.to_be_bytes();
    stream.set_nodelay(true)?;
    let mut startup = read_body(&mut stream)?;
    if startup == SSL {
        stream.write_all(b"N")?;
        startup = read_body(&mut stream)?;
    }
    if startup.starts_with(&CANCEL) {
        return (script.cancel)(&mut stream);
    }
    if String::from_utf8_lossy(&startup).contains("pgsluice control") {
        return serve_control(stream, script);
    }
    (script.login)(&mut stream)?;
    loop {
        let (tag, body) = read_message(&mut stream)?;
        let text = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
        match tag {
            b'Q' if text == CUE => (script.query)(&mut stream)?,
            b'Q' => answer(&mut stream, &text)?,
            b'S' => stream.write_all(&ready())?,
            b'P' => (script.parse)(&mut stream)?,
            b'B' => stream.write_all(&m::tagged(b'2', b""))?,
            b'E' => stream.write_all(&complete())?,
            b'X' => return Ok(()),
            _ => {}
        }
    }
}

fn serve_control(mut stream: TcpStream, script: Script) -> io::Result<()> {
    log_in(&mut stream)?;
    while read_message(&mut stream)?.0 == b'Q' {
        (script.limits)(&mut stream)?;
    }
    Ok(())
}

/// Lets anybody in.
pub fn log_in(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&welcome(&7_u32.to_be_bytes()))
}

/// What lets anybody in, with the secret of a cancel key.
pub fn welcome(secret: &[u8]) -> Vec<u8> {
    let parameters = [("server_version", "15.0"), ("client_encoding", "UTF8"), ("TimeZone", "UTC")];
    let reported = parameters.iter().flat_map(|(name, value)| report(name, value));
    [m::tagged(b'R', &[0; 4]), reported.collect(), m::tagged(b'K', &[&[0, 0, 0, 9], secret].concat()), ready()].concat()
}

/// One row with one value, and ReadyForQuery.
pub fn answer(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(&[columns(1), row(&[text]), complete(), ready()].concat())
}

fn tell_limits(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[columns(4), row(&["100", "3", "0", "0"]), complete(), ready()].concat())
}

/// RowDescription.
pub fn columns(count: u8) -> Vec<u8> {
    let column = [&b"value\0"[..], &[0; 6], &[0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]].concat();
    m::tagged(b'T', &[&[0, count], &column.repeat(usize::from(count))[..]].concat())
}

/// DataRow.
pub fn row(values: &[&str]) -> Vec<u8> {
    let mut body = vec![0, u8::try_from(values.len()).expect("few")];
    for value in values {
        body.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
        body.extend(value.as_bytes());
    }
    m::tagged(b'D', &body)
}

/// CommandComplete.
pub fn complete() -> Vec<u8> {
    m::tagged(b'C', b"SELECT 1\0")
}

/// ReadyForQuery, outside a transaction.
pub fn ready() -> Vec<u8> {
    m::tagged(b'Z', b"I")
}

/// ParameterStatus.
pub fn report(name: &str, value: &str) -> Vec<u8> {
    m::tagged(b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat())
}

/// ErrorResponse (`E`) or NoticeResponse (`N`).
pub fn notice(tag: u8, severity: &str, text: &str) -> Vec<u8> {
    m::tagged(tag, format!("S{severity}\0V{severity}\0C57P01\0M{text}\0\0").as_bytes())
}

/// Writes the same bytes until the connection is closed.
pub fn flood(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let many = bytes.repeat((64 << 10) / bytes.len() + 1);
    loop {
        stream.write_all(&many)?;
    }
}

/// Neither sends nor reads, until the connection is closed.
pub fn be_silent(stream: &mut TcpStream) -> io::Result<()> {
    while stream.read(&mut [0; 1024])? > 0 {}
    Ok(())
}

/// A message of the client's: its type and body.
pub fn read_message(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut tag = [0];
    stream.read_exact(&mut tag)?;
    Ok((tag[0], read_body(stream)?))
}

fn read_body(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body)?;
    Ok(body)
}
