//! Reads SQL text for one thing: which state of the session that runs it the text may change.
//!
//! It is a lexer with a table of words, not a parser: it knows strings, dollar quotes, comments and quoted identifiers as
//! PostgreSQL's scanner does (`src/backend/parser/scan.l`), where statements begin, and little else. Where a text can be
//! read in two ways it takes both, and what it cannot read is [`Effects::OPAQUE`]: it may say too much, never too little.
//! What a function, trigger or view does is in the catalog, not in the text: [`Suspects`] are the names of one database
//! that reach session state.
//!
//! No I/O, no clock, no dependency; no allocation for a text that names no setting with a dot, but where [`Readings`]
//! remember it.

mod effects;
mod lex;
mod name;
mod read;
mod remember;
mod shape;
mod suspects;
mod transaction;
mod words;

pub use effects::Effects;
pub use read::{CUSTOM_MAX, Reading, read};
pub use remember::Readings;
pub use suspects::Suspects;
pub use transaction::may_end_transaction;
