//! Messages of the frontend as bytes, one function each, named as in the PostgreSQL manual ("Message
//! Formats"). Nothing is checked: tests send wrong ones too.

/// A message with a type byte.
pub fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(untagged(body));
    bytes
}

/// The beginning of a message of whose body `rest` bytes are still to come.
pub fn begun(tag: u8, front: &[u8], rest: usize) -> Vec<u8> {
    let length = u32::try_from(4 + front.len() + rest).expect("a length field can say it");
    [&[tag], &length.to_be_bytes()[..], front].concat()
}

/// A message without a type byte: those that open a connection.
pub fn untagged(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("test messages are small");
    [&length.to_be_bytes(), body].concat()
}

/// StartupMessage, protocol 3.0.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    startup_version(0x0003_0000, parameters)
}

/// StartupMessage of any protocol version: major and minor, 16 bits each.
pub fn startup_version(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(cstr(name));
        body.extend(cstr(value));
    }
    body.push(0);
    untagged(&body)
}

/// SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103_u32.to_be_bytes())
}

/// GSSENCRequest.
pub fn gssenc_request() -> Vec<u8> {
    untagged(&80_877_104_u32.to_be_bytes())
}

/// CancelRequest.
pub fn cancel(pid: i32, secret: &[u8]) -> Vec<u8> {
    untagged(&[&80_877_102_u32.to_be_bytes(), &pid.to_be_bytes()[..], secret].concat())
}

/// PasswordMessage.
pub fn password(secret: &[u8]) -> Vec<u8> {
    tagged(b'p', &[secret, b"\0"].concat())
}

/// SASLInitialResponse.
pub fn sasl_initial(mechanism: &str, response: &[u8]) -> Vec<u8> {
    let length = u32::try_from(response.len()).expect("short").to_be_bytes();
    tagged(b'p', &[&cstr(mechanism), &length[..], response].concat())
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    tagged(b'Q', &cstr(sql))
}

/// Parse with parameter type oids.
pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [cstr(name), cstr(sql), count(types.len())].concat();
    types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    tagged(b'P', &body)
}

/// Bind with parameters and results in text.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(statement), count(0), count(values.len())].concat();
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(text) => {
                body.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
                body.extend(text.as_bytes());
            }
        }
    }
    body.extend(count(0));
    tagged(b'B', &body)
}

/// Describe: `kind` is b'S' for a statement, b'P' for a portal.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    tagged(b'D', &[&[kind], &cstr(name)[..]].concat())
}

/// Execute; `rows` 0 means all.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    tagged(b'E', &[&cstr(portal), &rows.to_be_bytes()[..]].concat())
}

/// Close: `kind` is b'S' for a statement, b'P' for a portal.
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    tagged(b'C', &[&[kind], &cstr(name)[..]].concat())
}

/// Flush.
pub fn flush() -> Vec<u8> {
    tagged(b'H', b"")
}

/// Sync.
pub fn sync() -> Vec<u8> {
    tagged(b'S', b"")
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    tagged(b'X', b"")
}

/// CopyData.
pub fn copy_data(data: &[u8]) -> Vec<u8> {
    tagged(b'd', data)
}

/// CopyDone.
pub fn copy_done() -> Vec<u8> {
    tagged(b'c', b"")
}

/// CopyFail.
pub fn copy_fail(reason: &str) -> Vec<u8> {
    tagged(b'f', &cstr(reason))
}

/// FunctionCall with arguments and result in text.
pub fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = [oid.to_be_bytes().to_vec(), count(0), count(arguments.len())].concat();
    for argument in arguments {
        body.extend(u32::try_from(argument.len()).expect("short").to_be_bytes());
        body.extend(argument.as_bytes());
    }
    body.extend(count(0));
    tagged(b'F', &body)
}

fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn count(n: usize) -> Vec<u8> {
    u16::try_from(n).expect("few").to_be_bytes().to_vec()
}
