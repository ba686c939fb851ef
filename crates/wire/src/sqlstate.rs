//! The SQLSTATEs that pgsluice sends or looks for. Source: the manual's appendix "PostgreSQL Error Codes".

/// connection_exception: the server was lost while it worked for the client.
pub const CONNECTION_FAILURE: &str = "08006";
/// sqlclient_unable_to_establish_sqlconnection: the server cannot be reached.
pub const UNABLE_TO_CONNECT: &str = "08001";
/// protocol_violation.
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// feature_not_supported.
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// invalid_parameter_value.
pub const INVALID_PARAMETER_VALUE: &str = "22023";
/// duplicate_prepared_statement.
pub const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
/// undefined_object.
pub const UNDEFINED_OBJECT: &str = "42704";
/// syntax_error.
pub const SYNTAX_ERROR: &str = "42601";
/// insufficient_privilege.
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// invalid_sql_statement_name.
pub const INVALID_STATEMENT_NAME: &str = "26000";
/// invalid_authorization_specification.
pub const INVALID_AUTHORIZATION: &str = "28000";
/// invalid_password.
pub const INVALID_PASSWORD: &str = "28P01";
/// invalid_catalog_name.
pub const INVALID_CATALOG_NAME: &str = "3D000";
/// insufficient_resources: no server became free in time.
pub const INSUFFICIENT_RESOURCES: &str = "53000";
/// too_many_connections.
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// program_limit_exceeded.
pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
/// object_not_in_prerequisite_state.
pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
/// query_canceled.
pub const QUERY_CANCELED: &str = "57014";
/// admin_shutdown.
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// cannot_connect_now.
pub const CANNOT_CONNECT_NOW: &str = "57P03";
/// idle_session_timeout.
pub const IDLE_SESSION_TIMEOUT: &str = "57P05";
/// idle_in_transaction_session_timeout.
pub const IDLE_IN_TRANSACTION_TIMEOUT: &str = "25P03";
/// transaction_timeout.
pub const TRANSACTION_TIMEOUT: &str = "25P04";
/// config_file_error.
pub const CONFIG_FILE_ERROR: &str = "F0000";
/// internal_error.
pub const INTERNAL_ERROR: &str = "XX000";
