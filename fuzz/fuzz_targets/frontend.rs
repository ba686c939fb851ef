//! Views of what clients send: total, and never longer than what they were made from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_wire::{Bind, FrontendWriter, HEAD_LEN, Head, Parse, SaslInitial, Target};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(head)) = Head::read(bytes) {
        assert!(head.total() >= HEAD_LEN);
    }
    if let Ok(parse) = Parse::read(bytes) {
        assert_eq!(parse.name.len() + 1 + parse.content.len(), bytes.len());
        let mut message = Vec::new();
        FrontendWriter(&mut message).parse_content(parse.name, parse.content);
        assert_eq!(&message[HEAD_LEN..], bytes, "what was read is what is written");
    }
    if let Some(bind) = Bind::read(bytes) {
        assert!(bind.names_len() <= bytes.len());
    }
    let _ = Target::read(bytes, "Close");
    let _ = SaslInitial::read(bytes);
});
