//! Messages a client sends, as bytes.

use pgsluice_wire::FrontendWriter;

fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = 4 + parts.iter().map(|p| p.len()).sum::<usize>();
    let mut m = vec![tag];
    m.extend(u32::try_from(len).unwrap().to_be_bytes());
    parts.iter().for_each(|p| m.extend(*p));
    m
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"])
}

pub(crate) fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"])
}

pub(crate) fn bind(portal: &str, name: &str, values: &[&str]) -> Vec<u8> {
    let mut tail = vec![0, 0];
    tail.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        tail.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        tail.extend(value.as_bytes());
    }
    tail.extend([0, 0]);
    message(b'B', &[portal.as_bytes(), b"\0", name.as_bytes(), b"\0", &tail])
}

pub(crate) fn describe(kind: char, name: &str) -> Vec<u8> {
    message(b'D', &[&[kind as u8], name.as_bytes(), b"\0"])
}

pub(crate) fn close(kind: char, name: &str) -> Vec<u8> {
    message(b'C', &[&[kind as u8], name.as_bytes(), b"\0"])
}

pub(crate) fn execute(portal: &str, limit: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &limit.to_be_bytes()])
}

pub(crate) fn function_call(oid: u32) -> Vec<u8> {
    message(b'F', &[&oid.to_be_bytes(), &[0; 6]])
}

pub(crate) fn copy_data(line: &str) -> Vec<u8> {
    message(b'd', &[line.as_bytes()])
}

pub(crate) fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &[reason.as_bytes(), b"\0"])
}

/// Sync, Flush, CopyDone, Terminate.
pub(crate) fn bare(tag: u8) -> Vec<u8> {
    let mut m = Vec::new();
    FrontendWriter(&mut m).bare(tag);
    m
}
