//! Encoders for the messages that pgsluice itself sends, in both directions.
//!
//! Each writer appends to a `Vec<u8>` that the caller owns and reuses.

use crate::backend::TxStatus;
use crate::startup::{CANCEL_CODE, SSL_CODE};
use crate::tag::{backend, frontend};

/// Severity of an ErrorResponse or NoticeResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The command failed, the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// Nothing failed.
    Notice,
    /// Nothing failed, but somebody should look.
    Warning,
}

impl Severity {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
        }
    }
}

/// One column of a RowDescription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Oid of its type in pg_type.
    pub type_oid: u32,
    /// typlen: bytes of the type, −1 for variable.
    pub type_len: i16,
}

/// Appends one message: the type, a length that is filled in after `body` has run, the body.
fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    sized(out, body);
}

fn sized(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    body(out);
    let len = u32::try_from(out.len() - at).expect("our own messages are short");
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().copied().filter(|&b| b != 0));
    out.push(0);
}

fn put_u16(out: &mut Vec<u8>, n: usize) {
    out.extend(u16::try_from(n).expect("our own lists are short").to_be_bytes());
}

fn put_value(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => out.extend((-1i32).to_be_bytes()),
        Some(v) => {
            out.extend(u32::try_from(v.len()).expect("our own values are short").to_be_bytes());
            out.extend(v);
        }
    }
}

/// Writes backend messages (towards clients).
#[derive(Debug)]
pub struct BackendWriter<'a>(pub &'a mut Vec<u8>);

impl BackendWriter<'_> {
    /// ErrorResponse or NoticeResponse, by severity; `detail` and `hint` may be empty.
    pub fn report(&mut self, severity: Severity, sqlstate: &str, text: &str, detail: &str, hint: &str) {
        let tag = match severity {
            Severity::Error | Severity::Fatal => backend::ERROR_RESPONSE,
            Severity::Notice | Severity::Warning => backend::NOTICE_RESPONSE,
        };
        message(self.0, tag, |out| {
            let fields = [(b'S', severity.as_str()), (b'V', severity.as_str()), (b'C', sqlstate), (b'M', text)];
            let more = [(b'D', detail), (b'H', hint)];
            for (code, value) in fields.into_iter().chain(more.into_iter().filter(|(_, v)| !v.is_empty())) {
                out.push(code);
                put_cstr(out, value.as_bytes());
            }
            out.push(0);
        });
    }

    /// ErrorResponse made of given fields, in their order.
    pub fn error_fields<'f>(&mut self, fields: impl IntoIterator<Item = (u8, &'f [u8])>) {
        message(self.0, backend::ERROR_RESPONSE, |out| {
            for (code, value) in fields {
                out.push(code);
                put_cstr(out, value);
            }
            out.push(0);
        });
    }

    /// ReadyForQuery.
    pub fn ready(&mut self, status: TxStatus) {
        message(self.0, backend::READY_FOR_QUERY, |out| out.push(status.byte()));
    }

    /// A message without a body: ParseComplete, CloseComplete, NoData, …
    pub fn bare(&mut self, tag: u8) {
        message(self.0, tag, |_| ());
    }

    /// ParameterStatus.
    pub fn parameter_status(&mut self, name: &[u8], value: &[u8]) {
        message(self.0, backend::PARAMETER_STATUS, |out| {
            put_cstr(out, name);
            put_cstr(out, value);
        });
    }

    /// BackendKeyData; the secret has 4 bytes in protocol 3.0, up to [`SECRET_LEN_MAX`](crate::SECRET_LEN_MAX) in 3.2.
    pub fn key_data(&mut self, pid: u32, secret: &[u8]) {
        message(self.0, backend::BACKEND_KEY_DATA, |out| {
            out.extend(pid.to_be_bytes());
            out.extend(secret);
        });
    }

    /// NegotiateProtocolVersion: the version that is spoken from here on, and the options unknown to us.
    pub fn negotiate_version(&mut self, version: u32, unknown_options: &[&[u8]]) {
        message(self.0, backend::NEGOTIATE_PROTOCOL_VERSION, |out| {
            out.extend(version.to_be_bytes());
            out.extend(u32::try_from(unknown_options.len()).expect("startup packets are short").to_be_bytes());
            for option in unknown_options {
                put_cstr(out, option);
            }
        });
    }

    /// AuthenticationOk.
    pub fn auth_ok(&mut self) {
        self.auth(0, b"");
    }

    /// AuthenticationCleartextPassword.
    pub fn auth_cleartext(&mut self) {
        self.auth(3, b"");
    }

    /// AuthenticationMD5Password.
    pub fn auth_md5(&mut self, salt: [u8; 4]) {
        self.auth(5, &salt);
    }

    /// AuthenticationSASL with these mechanisms.
    pub fn auth_sasl(&mut self, mechanisms: &[&str]) {
        let mut list = Vec::new();
        for name in mechanisms {
            put_cstr(&mut list, name.as_bytes());
        }
        list.push(0);
        self.auth(10, &list);
    }

    /// AuthenticationSASLContinue.
    pub fn auth_sasl_continue(&mut self, data: &[u8]) {
        self.auth(11, data);
    }

    /// AuthenticationSASLFinal.
    pub fn auth_sasl_final(&mut self, data: &[u8]) {
        self.auth(12, data);
    }

    fn auth(&mut self, code: u32, data: &[u8]) {
        message(self.0, backend::AUTHENTICATION, |out| {
            out.extend(code.to_be_bytes());
            out.extend(data);
        });
    }

    /// ParameterDescription.
    pub fn parameter_description(&mut self, oids: &[u32]) {
        message(self.0, backend::PARAMETER_DESCRIPTION, |out| {
            put_u16(out, oids.len());
            for oid in oids {
                out.extend(oid.to_be_bytes());
            }
        });
    }

    /// RowDescription in text format, without table or typmod; `binary` asks for format code 1.
    pub fn row_description(&mut self, columns: &[Column], binary: impl Fn(usize) -> bool) {
        message(self.0, backend::ROW_DESCRIPTION, |out| {
            put_u16(out, columns.len());
            for (i, column) in columns.iter().enumerate() {
                put_cstr(out, column.name.as_bytes());
                out.extend([0; 6]);
                out.extend(column.type_oid.to_be_bytes());
                out.extend(column.type_len.to_be_bytes());
                out.extend((-1i32).to_be_bytes());
                out.extend(u16::from(binary(i)).to_be_bytes());
            }
        });
    }

    /// DataRow; `None` is NULL.
    pub fn data_row<'v>(&mut self, values: impl ExactSizeIterator<Item = Option<&'v [u8]>>) {
        message(self.0, backend::DATA_ROW, |out| {
            put_u16(out, values.len());
            for value in values {
                put_value(out, value);
            }
        });
    }

    /// A NotificationResponse, whose body has been read elsewhere.
    pub fn notification(&mut self, body: &[u8]) {
        message(self.0, backend::NOTIFICATION_RESPONSE, |out| out.extend(body));
    }

    /// CommandComplete.
    pub fn command_complete(&mut self, command_tag: &str) {
        message(self.0, backend::COMMAND_COMPLETE, |out| put_cstr(out, command_tag.as_bytes()));
    }
}

/// Writes frontend messages (towards servers).
#[derive(Debug)]
pub struct FrontendWriter<'a>(pub &'a mut Vec<u8>);

impl FrontendWriter<'_> {
    /// SSLRequest: the server is asked for TLS.
    pub fn ssl_request(&mut self) {
        sized(self.0, |out| out.extend(SSL_CODE.to_be_bytes()));
    }

    /// StartupMessage.
    pub fn startup<'p>(&mut self, version: u32, params: impl IntoIterator<Item = (&'p [u8], &'p [u8])>) {
        sized(self.0, |out| {
            out.extend(version.to_be_bytes());
            for (name, value) in params {
                put_cstr(out, name);
                put_cstr(out, value);
            }
            out.push(0);
        });
    }

    /// CancelRequest.
    pub fn cancel(&mut self, pid: u32, secret: &[u8]) {
        sized(self.0, |out| {
            out.extend(CANCEL_CODE.to_be_bytes());
            out.extend(pid.to_be_bytes());
            out.extend(secret);
        });
    }

    /// PasswordMessage.
    pub fn password(&mut self, password: &[u8]) {
        message(self.0, frontend::PASSWORD, |out| put_cstr(out, password));
    }

    /// SASLInitialResponse.
    pub fn sasl_initial(&mut self, mechanism: &str, response: &[u8]) {
        message(self.0, frontend::PASSWORD, |out| {
            put_cstr(out, mechanism.as_bytes());
            put_value(out, Some(response));
        });
    }

    /// SASLResponse.
    pub fn sasl_response(&mut self, data: &[u8]) {
        message(self.0, frontend::PASSWORD, |out| out.extend(data));
    }

    /// Query.
    pub fn query(&mut self, text: &[u8]) {
        message(self.0, frontend::QUERY, |out| put_cstr(out, text));
    }

    /// Parse of a statement whose content (text, zero, types) is taken over as it came, see [`crate::Parse::content`].
    pub fn parse_content(&mut self, name: &[u8], content: &[u8]) {
        message(self.0, frontend::PARSE, |out| {
            put_cstr(out, name);
            out.extend(content);
        });
    }

    /// Bind of a statement to the unnamed portal: text parameters, text results.
    pub fn bind_text<'v>(&mut self, statement: &[u8], values: impl ExactSizeIterator<Item = Option<&'v [u8]>>) {
        message(self.0, frontend::BIND, |out| {
            out.push(0);
            put_cstr(out, statement);
            out.extend([0; 2]);
            put_u16(out, values.len());
            for value in values {
                put_value(out, value);
            }
            out.extend([0; 2]);
        });
    }

    /// The front of a Bind, rewritten: head and names, for a body of which `tail_len` bytes follow from elsewhere.
    pub fn bind_front(&mut self, portal: &[u8], statement: &[u8], tail_len: usize) {
        let len = 4 + portal.len() + 1 + statement.len() + 1 + tail_len;
        self.0.push(frontend::BIND);
        self.0.extend(u32::try_from(len).expect("checked against MESSAGE_LEN_MAX").to_be_bytes());
        put_cstr(self.0, portal);
        put_cstr(self.0, statement);
    }

    /// Describe of a statement.
    pub fn describe_statement(&mut self, name: &[u8]) {
        self.target(frontend::DESCRIBE, name);
    }

    /// Close of a statement.
    pub fn close_statement(&mut self, name: &[u8]) {
        self.target(frontend::CLOSE, name);
    }

    fn target(&mut self, tag: u8, name: &[u8]) {
        message(self.0, tag, |out| {
            out.push(b'S');
            put_cstr(out, name);
        });
    }

    /// Execute of the unnamed portal to its end.
    pub fn execute(&mut self) {
        self.execute_portal(b"");
    }

    /// Execute of a portal to its end.
    pub fn execute_portal(&mut self, portal: &[u8]) {
        message(self.0, frontend::EXECUTE, |out| {
            put_cstr(out, portal);
            out.extend([0; 4]);
        });
    }

    /// CopyFail.
    pub fn copy_fail(&mut self, reason: &[u8]) {
        message(self.0, frontend::COPY_FAIL, |out| put_cstr(out, reason));
    }

    /// A message without a body: Sync, Flush, Terminate.
    pub fn bare(&mut self, tag: u8) {
        message(self.0, tag, |_| ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BackendKeyData, Bind, DataRow, HEAD_LEN, Head, NegotiateVersion, PROTOCOL_3_0, PROTOCOL_3_2, Parse, Report,
        SaslInitial, Startup, Target,
    };

    fn body(m: &[u8]) -> &[u8] {
        let head = Head::read(m).unwrap().unwrap();
        assert_eq!(head.total(), m.len());
        &m[HEAD_LEN..]
    }

    #[test]
    fn what_we_write_we_can_read() {
        let mut m = Vec::new();
        BackendWriter(&mut m).report(Severity::Fatal, "57P01", "going", "", "come back");
        let report = Report::read(body(&m)).unwrap();
        assert!(report.is_fatal());
        assert_eq!((report.sqlstate(), report.field(b'H')), (&b"57P01"[..], Some(&b"come back"[..])));
        assert_eq!(report.field(b'D'), None);

        m.clear();
        FrontendWriter(&mut m).parse_content(b"s", b"select 1\0\0\0");
        assert_eq!(Parse::read(body(&m)).unwrap(), Parse { name: b"s", content: b"select 1\0\0\0" });

        m.clear();
        FrontendWriter(&mut m).bind_front(b"p", b"stmt", 3);
        m.extend(b"abc");
        assert_eq!(Bind::read(body(&m)), Some(Bind { portal: b"p", statement: b"stmt" }));

        m.clear();
        FrontendWriter(&mut m).close_statement(b"s");
        assert_eq!(Target::read(body(&m), "Close"), Ok(Target::Statement(b"s")));

        m.clear();
        FrontendWriter(&mut m).sasl_initial("SCRAM-SHA-256", b"n,,n=,r=x");
        assert_eq!(SaslInitial::read(body(&m)).unwrap().response, b"n,,n=,r=x");

        m.clear();
        FrontendWriter(&mut m).startup(PROTOCOL_3_0, [(&b"user"[..], &b"bob"[..])]);
        assert!(matches!(Startup::read(&m), Ok(Some((Startup::Message { .. }, n))) if n == m.len()));

        m.clear();
        BackendWriter(&mut m).key_data(7, &[1; 32]);
        assert_eq!(BackendKeyData::read(body(&m)), Ok(BackendKeyData { pid: 7, secret: &[1; 32] }));

        m.clear();
        BackendWriter(&mut m).negotiate_version(PROTOCOL_3_2, &[b"_pq_.x"]);
        assert_eq!(NegotiateVersion::read(body(&m)), Ok(NegotiateVersion { version: PROTOCOL_3_2, unknown: 1 }));

        m.clear();
        BackendWriter(&mut m).data_row([Some(&b"x"[..]), None].into_iter());
        assert_eq!(DataRow::new(body(&m)).columns().unwrap(), [Some(&b"x"[..]), None]);
    }

    #[test]
    fn a_zero_inside_a_string_cannot_end_it_early() {
        let mut m = Vec::new();
        FrontendWriter(&mut m).query(b"select 1\0; drop table t");
        assert_eq!(body(&m), b"select 1; drop table t\0");
    }
}
