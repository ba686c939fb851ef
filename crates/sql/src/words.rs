//! The words that mean something, and what: a table, found by a hash that is computed when this is compiled.

use crate::effects::Effects;
use crate::name::{HASHES, hash};

/// What a word means to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing.
    Other,
    /// The name of a function or schema with these effects, wherever it stands, in quotes too.
    Name(Effects),
    /// `set_config`: [`Word::Name`] with a setting's name to look for.
    SetConfig,
    /// A keyword with these effects where a statement begins.
    Begins(Effects),
    /// A keyword with these effects wherever it stands.
    Anywhere(Effects),
    Set,
    Reset,
    Prepare,
    Execute,
    Close,
    Create,
    Alter,
    Explain,
    Copy,
    From,
    /// INSERT or MERGE: an INTO follows that makes no table.
    WritesInto,
    Update,
    Into,
    Temp,
    /// Stands between CREATE and TEMP.
    BeforeTemp,
    Extension,
    Schema,
    With,
    Hold,
    For,
    Key,
    As,
    Transaction,
    Session,
    Local,
    /// In PL/pgSQL a statement follows: BEGIN, THEN, ELSE, LOOP.
    Opens,
    Begin,
    Declare,
}

const DEFINES: Word = Word::Begins(Effects::DDL);
const RUNS: Word = Word::Begins(Effects::OPAQUE.union(Effects::DDL));
const TRANSACTION: Word = Word::Begins(Effects::TRANSACTION);
const MAINTAINS: Word = Word::Begins(Effects::WRITE);
const WRITES: Word = Word::Anywhere(Effects::WRITE);
const RUNS_TEXT: Word = Word::Name(Effects::OPAQUE);
const STAYS: Word = Word::Name(Effects::LOAD);
const LOCKS: Word = Word::Name(Effects::ADVISORY);

/// All of them, in lower case.
const WORDS: &[(&str, Word)] = &[
    ("set", Word::Set),
    ("reset", Word::Reset),
    ("prepare", Word::Prepare),
    ("execute", Word::Execute),
    ("deallocate", Word::Begins(Effects::PREPARE)),
    ("declare", Word::Declare),
    ("close", Word::Close),
    ("listen", Word::Begins(Effects::LISTEN)),
    ("unlisten", Word::Begins(Effects::LISTEN)),
    ("load", Word::Begins(Effects::LOAD.union(Effects::SETTINGS))),
    ("discard", Word::Begins(Effects::DISCARD)),
    ("do", RUNS),
    ("call", RUNS),
    ("import", RUNS),
    ("create", Word::Create),
    ("alter", Word::Alter),
    ("drop", Word::Begins(Effects::DDL.union(Effects::TEMP))),
    ("comment", DEFINES),
    ("grant", DEFINES),
    ("revoke", DEFINES),
    ("security", DEFINES),
    ("reassign", DEFINES),
    ("begin", Word::Begin),
    ("start", TRANSACTION),
    ("commit", TRANSACTION),
    ("end", TRANSACTION),
    ("rollback", TRANSACTION),
    ("abort", TRANSACTION),
    ("savepoint", TRANSACTION),
    ("release", TRANSACTION),
    ("vacuum", MAINTAINS),
    ("analyze", MAINTAINS),
    ("analyse", MAINTAINS),
    ("cluster", MAINTAINS),
    ("reindex", MAINTAINS),
    ("refresh", MAINTAINS),
    ("explain", Word::Explain),
    ("copy", Word::Copy),
    ("from", Word::From),
    ("insert", Word::WritesInto),
    ("merge", Word::WritesInto),
    ("update", Word::Update),
    ("delete", WRITES),
    ("truncate", WRITES),
    ("into", Word::Into),
    ("temp", Word::Temp),
    ("temporary", Word::Temp),
    ("replace", Word::BeforeTemp),
    ("global", Word::BeforeTemp),
    ("local", Word::Local),
    ("session", Word::Session),
    ("transaction", Word::Transaction),
    ("extension", Word::Extension),
    ("schema", Word::Schema),
    ("with", Word::With),
    ("hold", Word::Hold),
    ("for", Word::For),
    ("key", Word::Key),
    ("as", Word::As),
    ("then", Word::Opens),
    ("else", Word::Opens),
    ("loop", Word::Opens),
    // Functions of PostgreSQL's own.
    ("set_config", Word::SetConfig),
    ("pg_settings", Word::Name(Effects::PG_SETTINGS)),
    ("nextval", Word::Name(Effects::SEQUENCE)),
    ("setval", Word::Name(Effects::SEQUENCE)),
    ("currval", Word::Name(Effects::SEQUENCE_READ)),
    ("lastval", Word::Name(Effects::SEQUENCE_READ)),
    ("pg_listening_channels", Word::Name(Effects::LISTEN_READ)),
    ("pg_advisory_lock", LOCKS),
    ("pg_advisory_lock_shared", LOCKS),
    ("pg_try_advisory_lock", LOCKS),
    ("pg_try_advisory_lock_shared", LOCKS),
    ("pg_advisory_unlock", LOCKS),
    ("pg_advisory_unlock_shared", LOCKS),
    ("pg_advisory_unlock_all", LOCKS),
    ("query_to_xml", RUNS_TEXT),
    ("query_to_xmlschema", RUNS_TEXT),
    ("query_to_xml_and_xmlschema", RUNS_TEXT),
    ("cursor_to_xml", RUNS_TEXT),
    ("cursor_to_xmlschema", RUNS_TEXT),
    ("table_to_xml", RUNS_TEXT),
    ("table_to_xmlschema", RUNS_TEXT),
    ("table_to_xml_and_xmlschema", RUNS_TEXT),
    ("schema_to_xml", RUNS_TEXT),
    ("schema_to_xmlschema", RUNS_TEXT),
    ("schema_to_xml_and_xmlschema", RUNS_TEXT),
    ("database_to_xml", RUNS_TEXT),
    ("database_to_xmlschema", RUNS_TEXT),
    ("database_to_xml_and_xmlschema", RUNS_TEXT),
    ("ts_stat", RUNS_TEXT),
    ("ts_rewrite", RUNS_TEXT),
    ("pg_backup_start", STAYS),
    ("pg_start_backup", STAYS),
    ("pg_replication_origin_session_setup", STAYS),
    ("pg_create_physical_replication_slot", STAYS),
    ("pg_create_logical_replication_slot", STAYS),
    ("pg_copy_physical_replication_slot", STAYS),
    ("pg_copy_logical_replication_slot", STAYS),
    // Functions of the extensions that come with PostgreSQL: pg_trgm, isn, tablefunc, xml2.
    ("set_limit", Word::Name(Effects::SETTINGS)),
    ("isn_weak", STAYS),
    ("crosstab", RUNS_TEXT),
    ("crosstab2", RUNS_TEXT),
    ("crosstab3", RUNS_TEXT),
    ("crosstab4", RUNS_TEXT),
    ("crosstab_hash", RUNS_TEXT),
    ("connectby", RUNS_TEXT),
    ("xpath_table", RUNS_TEXT),
];

/// For each hash the number of a word, counted from one; zero where there is none, as for most words that mean nothing.
const TABLE: [u8; HASHES] = {
    assert!(WORDS.len() < 256, "a word's number is a byte");
    let mut table = [0; HASHES];
    let mut number = 0;
    while number < WORDS.len() {
        let mut place = hash(WORDS[number].0.as_bytes());
        while table[place] != 0 {
            place = (place + 1) % HASHES;
        }
        number += 1;
        table[place] = number as u8;
    }
    table
};

/// What a word means, in any case.
#[inline]
pub(crate) fn identify(word: &[u8]) -> Word {
    if word.is_empty() {
        return Word::Other;
    }
    let mut place = hash(word);
    loop {
        let number = usize::from(TABLE[place]);
        if number == 0 {
            return family(word);
        }
        let (known, meaning) = WORDS[number - 1];
        if known.len() == word.len() && known.as_bytes().eq_ignore_ascii_case(word) {
            return meaning;
        }
        place = (place + 1) % HASHES;
    }
}

/// Names that are known by how they begin.
#[inline]
fn family(word: &[u8]) -> Word {
    // Nearly all words are told apart by two of their bytes.
    match (word[0] | 0x20, word.get(3)) {
        (b'p', Some(b't' | b'T')) if begins(word, b"pg_temp") || begins(word, b"pg_toast_temp") => {
            Word::Name(Effects::TEMP)
        }
        (b'd', Some(b'i' | b'I')) if begins(word, b"dblink_connect") => {
            Word::Name(Effects::LOAD.union(Effects::OPAQUE))
        }
        (b'd', Some(b'i' | b'I')) if begins(word, b"dblink") => RUNS_TEXT,
        _ => Word::Other,
    }
}

fn begins(word: &[u8], start: &[u8]) -> bool {
    word.get(..start.len()).is_some_and(|own| own.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_in_any_case() {
        for (word, meaning) in WORDS {
            assert_eq!(identify(word.as_bytes()), *meaning, "{word}");
            assert_eq!(identify(word.to_uppercase().as_bytes()), *meaning, "{word}");
            assert_eq!(identify(format!("{word}z").as_bytes()), Word::Other, "{word}");
        }
    }

    #[test]
    fn the_ordinary_words_of_an_application_find_an_empty_place() {
        let ordinary =
            ["select", "where", "and", "id", "values", "order", "by", "limit", "aid", "abalance", "tid", "bid"];
        for word in ordinary {
            assert_eq!(TABLE[hash(word.as_bytes())], 0, "{word}: choose other factors");
        }
    }
}
