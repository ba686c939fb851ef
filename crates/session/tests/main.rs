//! Tests of the session's machines against a model PostgreSQL, by table, and by hand where it is tricky.

#![allow(clippy::unwrap_used, reason = "a panic is how these tests fail")]

mod edges;
mod listen;
mod model;
mod program;
mod state;
mod table;
mod talk;
mod transparent;
mod world;
