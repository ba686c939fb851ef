//! Tests of the session's machines against a model PostgreSQL, by table, and by hand where it is tricky.

mod edges;
mod model;
mod table;
mod transparent;
mod world;
