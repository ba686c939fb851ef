//! A client's login, blocking: trust, MD5 or SCRAM-SHA-256, whatever the server asks for (manual: "Start-up"). No
//! channel binding.

use std::io::{self, BufRead, BufReader, Read, Write};

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use crate::net::Stream;
use crate::proto;

const AUTH_OK: u32 = 0;
const AUTH_MD5: u32 = 5;
const AUTH_SASL: u32 = 10;
const AUTH_SASL_CONTINUE: u32 = 11;
const AUTH_SASL_FINAL: u32 = 12;

/// Who logs in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Role name.
    pub user: String,
    /// Database name.
    pub database: String,
    /// Plain password; unused where the server asks for none.
    pub password: String,
}

/// Logs in on a blocking stream, up to the first ReadyForQuery. `settings` are names and values in turn.
///
/// # Errors
/// The socket's; `PermissionDenied` with the server's text if it refuses; `InvalidData` for an exchange that makes
/// no sense; `Unsupported` for a method this client does not know.
pub fn log_in(stream: &Stream, who: &Credentials, settings: &[&str]) -> io::Result<()> {
    (&*stream).write_all(&proto::startup(&who.user, &who.database, settings))?;
    let mut reader = BufReader::with_capacity(4096, stream);
    let mut scram = None;
    loop {
        let (tag, body) = read_message(&mut reader)?;
        match tag {
            b'R' => {
                let answer = authenticate(&body, who, &mut scram)?;
                (&*stream).write_all(&answer)?;
            }
            b'E' => return Err(io::Error::new(io::ErrorKind::PermissionDenied, readable(&body))),
            b'Z' if reader.buffer().is_empty() => return Ok(()),
            b'Z' => return Err(invalid("bytes after ReadyForQuery")),
            _ => {}
        }
    }
}

/// Reads one message: its tag and body.
///
/// # Errors
/// The reader's.
pub fn read_message(reader: &mut impl BufRead) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    reader.read_exact(&mut head)?;
    let [tag, length @ ..] = head;
    let length = u32::from_be_bytes(length).checked_sub(4).ok_or_else(|| invalid("message length below 4"))?;
    let mut body = Vec::new();
    reader.take(u64::from(length)).read_to_end(&mut body)?;
    if body.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((tag, body))
}

/// The answer to an authentication request; empty if none is due.
fn authenticate(body: &[u8], who: &Credentials, scram: &mut Option<ScramSha256>) -> io::Result<Vec<u8>> {
    let method = proto::be32(body, 0).ok_or_else(|| invalid("empty authentication request"))?;
    match (method, scram.as_mut()) {
        (AUTH_OK, _) => Ok(Vec::new()),
        (AUTH_MD5, _) => {
            let salt = proto::be32(body, 4).ok_or_else(|| invalid("MD5 without a salt"))?.to_be_bytes();
            let hash = md5_hash(who.user.as_bytes(), who.password.as_bytes(), salt);
            Ok(password_message(hash.as_bytes(), &[0]))
        }
        (AUTH_SASL, _) => {
            let scram = scram.insert(ScramSha256::new(who.password.as_bytes(), ChannelBinding::unsupported()));
            let mut first = SCRAM_SHA_256.as_bytes().to_vec();
            first.push(0);
            first.extend((scram.message().len() as u32).to_be_bytes());
            Ok(password_message(&first, scram.message()))
        }
        (AUTH_SASL_CONTINUE, Some(scram)) => {
            scram.update(&body[4..])?;
            Ok(password_message(scram.message(), b""))
        }
        (AUTH_SASL_FINAL, Some(scram)) => scram.finish(&body[4..]).map(|()| Vec::new()),
        (other, _) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("authentication method {other} is not spoken here")))
        }
    }
}

/// PasswordMessage, SASLInitialResponse or SASLResponse (F): all have tag `p`.
fn password_message(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    proto::put_message(&mut out, b'p', &[first, second].concat());
    out
}

/// An ErrorResponse as one line of text, for a person.
pub fn readable(body: &[u8]) -> String {
    String::from_utf8_lossy(body).replace('\0', " ").trim().to_owned()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
