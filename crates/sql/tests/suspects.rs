//! How suspicion begins in a source and spreads over rows. What rows a real database gives is tested in tests/.

use pgsluice_sql::{Effects, Suspects, read};

fn suspects(rows: &[[&str; 3]]) -> Suspects {
    Suspects::from_rows(rows.iter().map(|row| row.map(str::as_bytes)))
}

/// Whether a function in PL/pgSQL with this source is suspect.
fn plpgsql(source: &str) -> bool {
    !suspects(&[["plpgsql", "f", source]]).is_empty()
}

#[test]
fn a_source_in_plpgsql_is_read_as_such() {
    for source in [
        "begin set a = 1; end",
        "begin if x then set a = 1; end if; end",
        "begin if x then null; else reset a; end if; end",
        "begin <<label>> set a = 1; end",
        "begin loop listen x; end loop; end",
        "begin begin unlisten x; exception when others then load 'x'; end; end",
        "declare a int; begin declare b int; begin set a.b = 1; end; end",
        "begin case x when 1 then prepare a as select 1; end case; end",
        "begin execute 'x'; end",
        "begin for r in execute 'x' loop end loop; return query execute y; end",
        "begin open c for execute x; end",
        "begin perform set_config('a', 'b', false); end",
        "begin create temporary table t (a int); end",
        "begin do $$x$$; end",
        "begin x := pg_try_advisory_lock(1); end",
        "begin call p(); end",
        "begin 'unfinished",
    ] {
        assert!(plpgsql(source), "{source}");
    }
    for source in [
        "",
        "begin update t set a = 1 where b = 2; end",
        "begin set := 1; load = 2; listen.x := 3; reset[1] := 4; end",
        "declare set int; listen text; load bool; comment text := 'x'; begin null; end",
        "declare c cursor for select 1; begin open c; fetch c into temp; close c; end",
        "begin select a into temp from t; insert into t values (1) on conflict do nothing; end",
        "begin commit; rollback; end",
        "begin perform nextval('s'), currval('s'), lastval(); end",
        "begin return; -- set a = 1;\n /* ; set a = 1 */ end",
        "begin raise notice '; set a = 1'; end",
        "begin if a > b then c := d >> e; end if; end",
    ] {
        assert!(!plpgsql(source), "{source}");
    }
}

#[test]
fn suspicion_spreads_to_whatever_mentions_it() {
    let chain = (0..1000).map(|n| (format!("f{n}"), format!("select F{}()", n + 1))).collect::<Vec<_>>();
    let mut rows = chain.iter().map(|(name, source)| ["sql", name, source]).collect::<Vec<_>>();
    rows.push(["sql", "alone", "select alone(), 'f1000()'"]);
    assert!(suspects(&rows).is_empty());
    rows.push(["unknown", "f1000", ""]);
    let found = suspects(&rows);
    assert_eq!(found.names().count(), 1001);
    assert!(!found.names().any(|name| name == "alone"));
    assert!(!found.concern_writes() && !found.concern_all());
}

#[test]
fn what_runs_unnamed_concerns_more_than_a_name() {
    let sets = ["sql", "sets", "set app.a = 1"];
    let named = suspects(&[sets, ["refers", "v", "sets"]]);
    assert_eq!((named.concern_writes(), named.concern_all()), (false, false));
    let trigger = suspects(&[sets, ["trigger", "t", "sets"], ["plpgsql", "g", "begin insert into u values (1); end"]]);
    assert_eq!((trigger.concern_writes(), trigger.concern_all()), (true, false));
    let mut names = trigger.names().collect::<Vec<_>>();
    names.sort_unstable();
    assert_eq!(names, ["g", "sets"], "the trigger's table is written to like any other");
    let table = suspects(&[sets, ["table", "t", "sets"]]);
    assert_eq!((table.concern_writes(), table.names().count()), (true, 2));
    let operator = suspects(&[sets, ["always", "+", "\"sets\""]]);
    assert!(operator.concern_all());
    assert_eq!(operator.custom(), ["app.a".into()]);
    assert!(suspects(&[["always", "+", "int4pl"], ["trigger", "t", "touch"]]).is_empty());
    assert_eq!(suspects(&[["what", "f", ""]]).names().collect::<Vec<_>>(), ["f"], "an unknown kind");

    let effects = |suspects: &Suspects, text: &str| read(text.as_bytes(), Some(suspects)).effects;
    assert_eq!(effects(&named, "select * from v"), Effects::SUSPECT);
    assert_eq!(effects(&named, "select 'v', w /* v */"), Effects::NONE);
    assert_eq!(effects(&trigger, "select 1"), Effects::NONE);
    assert_eq!(effects(&trigger, "delete from x"), Effects::SUSPECT | Effects::WRITE);
    assert_eq!(effects(&operator, "select 1"), Effects::SUSPECT);
    assert_eq!(effects(&suspects(&[]), "select v()"), Effects::NONE);
}

#[test]
fn names_are_compared_as_postgresql_would_or_more() {
    let long = "x".repeat(63);
    let found = suspects(&[["unknown", "Mixed", ""], ["unknown", "q\"uote", ""], ["unknown", &long, ""]]);
    for text in
        ["mixed", "MIXED", "\"Mixed\"", "a.mixed", "\"q\"\"uote\"", &format!("{long}yz"), &format!("\"{long}yz\"")]
    {
        assert_eq!(read(text.as_bytes(), Some(&found)).effects, Effects::SUSPECT, "{text}");
    }
    for text in ["mixe", "mixed2", "quote", "\"q\"\"\"\"uote\"", &long[1..], "gr\u{fc}n"] {
        assert_eq!(read(text.as_bytes(), Some(&found)).effects, Effects::NONE, "{text}");
    }
    // In which encoding a client writes it is not known.
    let found = suspects(&[["unknown", "gr\u{fc}n", ""], ["sql", "f", "select GR\u{dc}N()"]]);
    assert_eq!(read(b"select gr\xfcn()", Some(&found)).effects, Effects::SUSPECT);
    assert_eq!(read(b"select f()", Some(&found)).effects, Effects::SUSPECT);
    assert_eq!(read(b"select g()", Some(&found)).effects, Effects::NONE);
}
