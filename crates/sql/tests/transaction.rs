//! Which texts could end a transaction block.

use pgsluice_sql::may_end_transaction;

#[test]
fn whatever_could_end_a_block() {
    for text in [
        "commit",
        "COMMIT",
        "select 1; CoMmIt",
        "rollback",
        "rollback to x",
        "abort",
        "prepare transaction 'x'",
        "end",
        "END;",
        " \n\tend work",
        ";end",
        "select 1 ; \r\n End",
        "/* x */end",
        "/* x */ end",
        "-- x\nend",
        "select 1; -- x\n\n end",
        "select 1; -- x\rend",
        "-- x\n-- y\n\nend",
        "select 'x; commit'",
        "select committed from t",
        "end/**/",
        "end--",
        "select 'a\\'; end --'",
    ] {
        assert!(may_end_transaction(text.as_bytes()), "{text}");
    }
    assert!(may_end_transaction(b"\x0b\x0cend"));
}

#[test]
fn what_could_not() {
    for text in [
        "",
        "select 1",
        "begin",
        "savepoint x",
        "release x",
        "select case when a then b end",
        "select case when a -- x\n then b\n end",
        "select case when a then b end; select 2",
        "select endpoint, end_of, \"end\" from t",
        "endpoint",
        "; end_of",
        "end$",
        "select 1 - -\nend",
    ] {
        assert!(!may_end_transaction(text.as_bytes()), "{text}");
    }
    assert!(!may_end_transaction("end\u{e9}".as_bytes()));
}
