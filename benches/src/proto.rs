//! The messages of protocol 3.0 that the measuring programs send, and a scanner that counts the messages they
//! receive without keeping them (manual: "Message Formats"). No bodies are parsed here.

use std::io;

const PROTOCOL_3_0: u32 = 196_608;
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
/// A longer startup packet is refused, as in PostgreSQL (MAX_STARTUP_PACKET_LENGTH, pqcomm.h).
const STARTUP_MAX: usize = 10_000;
/// PostgreSQL's own limit of a message (PQ_LARGE_MESSAGE_LIMIT, libpq.h).
const MESSAGE_MAX: u32 = 0x3fff_ffff;
/// The time zone of a session that asks for no other.
pub const TIME_ZONE: &str = "Etc/UTC";
/// Type oid of text, pg_type.dat.
const TEXT_OID: u32 = 25;

/// Appends one message: tag, length, body.
pub fn put_message(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    put_message(&mut out, tag, body);
    out
}

/// Parts, each followed by a zero byte.
fn strings(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|s| s.bytes().chain([0])).collect()
}

/// StartupMessage (F) with further settings: names and values in turn.
pub fn startup(user: &str, database: &str, settings: &[&str]) -> Vec<u8> {
    let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
    body.extend(strings(&["user", user, "database", database, "application_name", "loadgen"]));
    body.extend(strings(settings));
    body.push(0);
    let mut out = (body.len() as u32 + 4).to_be_bytes().to_vec();
    out.extend(body);
    out
}

/// What a server says from AuthenticationOk to ReadyForQuery: the parameters PostgreSQL 16 reports.
pub fn startup_reply(pid: u32, secret: u32, application_name: &str) -> Vec<u8> {
    const REPORTED: [(&str, &str); 13] = [
        ("in_hot_standby", "off"),
        ("integer_datetimes", "on"),
        ("TimeZone", TIME_ZONE),
        ("IntervalStyle", "postgres"),
        ("is_superuser", "on"),
        ("default_transaction_read_only", "off"),
        ("scram_iterations", "4096"),
        ("DateStyle", "ISO, MDY"),
        ("standard_conforming_strings", "on"),
        ("session_authorization", "postgres"),
        ("client_encoding", "UTF8"),
        ("server_version", "16.4 (fakepg)"),
        ("server_encoding", "UTF8"),
    ];
    let mut out = message(b'R', &0u32.to_be_bytes());
    for (name, value) in REPORTED {
        put_message(&mut out, b'S', &parameter(name, value));
    }
    put_message(&mut out, b'S', &parameter("application_name", application_name));
    put_message(&mut out, b'K', &[pid.to_be_bytes(), secret.to_be_bytes()].concat());
    put_message(&mut out, b'Z', b"I");
    out
}

/// The body of ParameterStatus (B).
pub fn parameter(name: &str, value: &str) -> Vec<u8> {
    strings(&[name, value])
}

/// Query (F).
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &strings(&[sql]))
}

/// Parse (F) without parameter types.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    let mut body = strings(&[name, sql]);
    body.extend([0, 0]);
    message(b'P', &body)
}

/// Bind (F) to the unnamed portal, without parameters, all results as text.
pub fn bind(statement: &str) -> Vec<u8> {
    let mut body = strings(&["", statement]);
    body.extend([0; 6]);
    message(b'B', &body)
}

/// Describe (F) of the unnamed portal.
pub fn describe_portal() -> Vec<u8> {
    message(b'D', b"P\0")
}

/// Execute (F) of the unnamed portal, all rows.
pub fn execute() -> Vec<u8> {
    message(b'E', &[0; 5])
}

/// Sync (F).
pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// SSLRequest (F).
pub fn ssl_request() -> Vec<u8> {
    [8u32.to_be_bytes(), SSL_REQUEST.to_be_bytes()].concat()
}

/// Terminate (F).
pub fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

/// RowDescription (B) of one text column.
pub fn row_description() -> Vec<u8> {
    let mut body = 1u16.to_be_bytes().to_vec();
    body.extend(strings(&["col"]));
    body.extend([0; 6]); // no table, no attribute
    body.extend(TEXT_OID.to_be_bytes());
    body.extend((-1i16).to_be_bytes()); // of variable size
    body.extend((-1i32).to_be_bytes()); // no modifier
    body.extend([0; 2]); // as text
    message(b'T', &body)
}

/// DataRow (B) of one column of `size` bytes.
pub fn data_row(size: usize) -> Vec<u8> {
    let mut body = 1u16.to_be_bytes().to_vec();
    body.extend((size as u32).to_be_bytes());
    body.resize(body.len() + size, b'x');
    message(b'D', &body)
}

/// One step of a server's side of a startup, given all that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup {
    /// Not enough bytes yet.
    More,
    /// A request for encryption of this many bytes; answered with one `N`.
    Encryption(usize),
    /// A StartupMessage of this many bytes.
    Start(usize),
    /// A cancel request, or something else after which the connection closes.
    Close,
}

/// Looks at the start of a connection.
pub fn startup_step(bytes: &[u8]) -> Startup {
    let (Some(length), Some(code)) = (be32(bytes, 0), be32(bytes, 4)) else { return Startup::More };
    let length = length as usize;
    if !(8..=STARTUP_MAX).contains(&length) {
        return Startup::Close;
    }
    match code {
        _ if bytes.len() < length => Startup::More,
        SSL_REQUEST | GSSENC_REQUEST => Startup::Encryption(length),
        CANCEL_REQUEST => Startup::Close,
        code if code >> 16 == 3 => Startup::Start(length),
        _ => Startup::Close,
    }
}

/// The big-endian number at `at`, if it is all there.
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    four.try_into().ok().map(u32::from_be_bytes)
}

/// Walks the message headers of a byte stream, however it is cut, and skips the bodies.
#[derive(Default, Clone, Copy, Debug)]
pub struct Scanner {
    head: [u8; 5],
    have: usize,
    remain: usize,
}

impl Scanner {
    /// Feeds a chunk; `on` gets the tag of each message whose header is complete.
    ///
    /// # Errors
    /// `InvalidData` for a length that no message has.
    pub fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(u8)) -> io::Result<()> {
        while !bytes.is_empty() {
            let skipped = self.remain.min(bytes.len());
            self.remain -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.head.len() - self.have).min(bytes.len());
            if self.remain > 0 || taken == 0 {
                continue;
            }
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.head.len() {
                self.have = 0;
                self.remain = body_length(&self.head)?;
                on(self.head[0]);
            }
        }
        Ok(())
    }
}

/// The bytes that follow a header.
fn body_length(head: &[u8; 5]) -> io::Result<usize> {
    let [_, length @ ..] = *head;
    let length = u32::from_be_bytes(length);
    if !(4..=MESSAGE_MAX).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message length out of range"));
    }
    Ok(length as usize - 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scanner_sees_the_same_messages_however_the_stream_is_cut() {
        let mut all = startup_reply(1, 2, "me");
        all.extend(query("SELECT 1"));
        all.extend(data_row(300));
        all.extend(sync());
        let tags = |size: usize| {
            let (mut scanner, mut tags) = (Scanner::default(), Vec::new());
            for chunk in all.chunks(size) {
                scanner.feed(chunk, |tag| tags.push(tag)).unwrap();
            }
            assert_eq!((scanner.have, scanner.remain), (0, 0), "chunks of {size}");
            tags
        };
        let whole = tags(all.len());
        assert_eq!(whole, b"RSSSSSSSSSSSSSSKZQDS");
        for size in 1..40 {
            assert_eq!(tags(size), whole, "chunks of {size}");
        }
    }

    #[test]
    fn a_length_that_no_message_has_is_an_error() {
        assert!(Scanner::default().feed(b"Z\0\0\0\x03", |_| ()).is_err());
        assert!(Scanner::default().feed(b"Z\xff\0\0\0", |_| ()).is_err());
    }

    #[test]
    fn startup_packets() {
        let packet = startup("me", "db", &["TimeZone", "UTC"]);
        assert_eq!(startup_step(&packet), Startup::Start(packet.len()));
        assert_eq!(startup_step(&packet[..packet.len() - 1]), Startup::More);
        assert_eq!(startup_step(b"\0\0\0\x08\x04\xd2\x16\x2f"), Startup::Encryption(8));
        assert_eq!(startup_step(b"\0\0\0\x08\x04\xd2\x16\x2e"), Startup::Close);
        assert_eq!(startup_step(b"GET / HTTP/1.1\r\n"), Startup::Close);
    }
}
