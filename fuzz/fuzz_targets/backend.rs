//! Views of what servers send.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_wire::{
    Authentication, BackendKeyData, BackendWriter, CommandComplete, DataRow, HEAD_LEN, ParameterStatus, Report,
    ready_status, sasl_mechanisms,
};

fuzz_target!(|bytes: &[u8]| {
    let _ = ready_status(bytes);
    let _ = BackendKeyData::read(bytes);
    let _ = CommandComplete::read(bytes);
    let _ = DataRow::new(bytes).columns();
    if let Ok(Authentication::Sasl { mechanisms }) = Authentication::read(bytes) {
        assert!(sasl_mechanisms(mechanisms).all(|name| !name.is_empty()));
    }
    if let Ok(status) = ParameterStatus::read(bytes) {
        let mut message = Vec::new();
        BackendWriter(&mut message).parameter_status(status.name, status.value);
        assert_eq!(&message[HEAD_LEN..], bytes);
    }
    if let Ok(report) = Report::read(bytes) {
        let mut message = Vec::new();
        BackendWriter(&mut message).error_fields(report.fields());
        assert_eq!(&message[HEAD_LEN..], bytes);
    }
});
