//! No view panics or reads past its message, whatever the bytes.

use pgsluice_wire::*;
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn views_are_total(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Head::read(&bytes);
        let _ = Startup::read(&bytes);
        let _ = Parse::read(&bytes);
        let _ = Bind::read(&bytes);
        let _ = Target::read(&bytes, "Describe");
        let _ = SaslInitial::read(&bytes);
        let _ = ParameterStatus::read(&bytes);
        let _ = BackendKeyData::read(&bytes);
        let _ = CommandComplete::read(&bytes);
        let _ = Authentication::read(&bytes);
        let _ = DataRow::new(&bytes).columns();
        if let Ok(report) = Report::read(&bytes) {
            let fields: usize = report.fields().map(|(_, text)| text.len() + 2).sum();
            prop_assert_eq!(fields + 1, bytes.len());
        }
    }

    #[test]
    fn reports_survive_a_round_trip(fields in vec((b'A'..=b'Z', "[a-z ]{0,20}"), 0..8)) {
        let mut m = Vec::new();
        BackendWriter(&mut m).error_fields(fields.iter().map(|(c, t)| (*c, t.as_bytes())));
        let report = Report::read(&m[HEAD_LEN..]).expect("our own encoding");
        let back: Vec<_> = report.fields().map(|(c, t)| (c, String::from_utf8_lossy(t).into_owned())).collect();
        prop_assert_eq!(back, fields);
    }

    #[test]
    fn startup_parameters_survive_a_round_trip(pairs in vec(("[a-z_]{1,10}", "[ -~]{0,20}"), 0..8)) {
        let mut m = Vec::new();
        FrontendWriter(&mut m).startup(PROTOCOL_3_0, pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        let Ok(Some((Startup::Message { params, .. }, _))) = Startup::read(&m) else { panic!("our own encoding") };
        let back: Vec<_> =
            params.iter().map(|(n, v)| (String::from_utf8_lossy(n).into_owned(), String::from_utf8_lossy(v).into_owned())).collect();
        prop_assert_eq!(back, pairs);
    }
}
