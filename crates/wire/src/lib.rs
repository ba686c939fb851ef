//! The v3 grammar: heads of messages, borrowed views of their bodies, and encoders for what pgsluice says itself.
//!
//! This crate knows bytes and nothing else: no socket, no state, no clock. It never owns payload and never copies what
//! it reads; a view borrows from the receive buffer. It does not decide what a message means for a session.
//!
//! Source: PostgreSQL manual, chapter "Frontend/Backend Protocol", sections "Message Formats" and "Error and Notice
//! Message Fields".

mod backend;
mod encode;
mod frontend;
mod head;
mod report;
pub mod sqlstate;
mod startup;
pub mod tag;

pub use backend::{
    Authentication, BackendKeyData, ColumnView, CommandComplete, DataRow, NegotiateVersion, Notification,
    ParameterStatus, RowDescription, SECRET_LEN_MAX, TxStatus, ready_status, sasl_mechanisms,
};
pub use encode::{BackendWriter, Column, FrontendWriter, Severity};
pub use frontend::{Bind, Parse, SaslInitial, Target};
pub use head::{BadLength, HEAD_LEN, Head, MESSAGE_LEN_MAX, Malformed};
pub use report::{Report, field};
pub use startup::{
    BadStartup, CANCEL_CODE, GSSENC_CODE, PROTOCOL_3_0, PROTOCOL_3_2, SSL_CODE, STARTUP_LEN_MAX, Startup, StartupParams,
};
