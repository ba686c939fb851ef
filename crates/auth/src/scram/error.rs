//! Why a SCRAM exchange failed, and whose doing it was. Texts name the attribute concerned and never repeat bytes of
//! the peer beyond one printable character, so that nobody unauthenticated can write into a log.

use std::fmt;

/// Who is to blame for a failed exchange, hence what to tell the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The peer's message breaks the grammar or the exchange (SQLSTATE 08P01).
    Malformed,
    /// The peer asks for something legal that is not supported (SQLSTATE 0A000).
    Unsupported,
    /// A password or key is wrong, on either side (SQLSTATE 28P01).
    Credentials,
    /// The caller used the exchange out of order or after its end: our own bug.
    Misuse,
}

/// What is wrong with the value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not padded canonical base64.
    NotBase64,
    /// Not of the length the attribute must have, or empty.
    WrongLength,
    /// Holds something else than printable ASCII.
    NotPrintable,
    /// Not a positive decimal number.
    NotANumber,
}

/// Why a SCRAM exchange failed. Attributes are named by their letter in ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScramError {
    /// The message has no bytes.
    Empty,
    /// The message is longer than is accepted; both in bytes.
    TooLong {
        /// Length of the message.
        len: usize,
        /// Length that would have been accepted.
        max: usize,
    },
    /// The message holds a NUL byte.
    EmbeddedNul,
    /// Another attribute, another character or the end stands where an attribute must be.
    UnexpectedAttribute {
        /// The attribute that must be there.
        expected: u8,
        /// The byte that is, `None` at the end of the message.
        found: Option<u8>,
    },
    /// No `=` follows the attribute's name.
    MissingEquals {
        /// The attribute.
        attribute: u8,
    },
    /// The attribute's value is malformed.
    BadValue {
        /// The attribute.
        attribute: u8,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The client-first-message does not begin with a channel binding flag and its comma.
    BadBindingFlag {
        /// The byte that is there, `None` at the end of the message.
        found: Option<u8>,
    },
    /// Bytes follow the proof, which must be last.
    TrailingBytes,
    /// `c=` of the client-final-message does not repeat the header of the client-first-message.
    BindingMismatch,
    /// `r=` is not the nonce of this exchange.
    NonceMismatch,
    /// The client insists on channel binding under a mechanism without it, or of a type that is not supported.
    BindingUnsupported,
    /// The client chose the mechanism with channel binding, and does not use it.
    BindingMissing,
    /// The client could bind the channel and was told that we cannot, which we did not say: somebody stands in between.
    BindingDowngraded,
    /// The client wants to be authorized as somebody else (`a=`).
    AuthorizationIdentity,
    /// The peer requires an extension (`m=`).
    MandatoryExtension,
    /// The server asks for more work than we are willing to do.
    TooManyIterations {
        /// Iterations the server asks for.
        iterations: u32,
    },
    /// The client's proof is wrong, or the user does not exist, which must look the same.
    InvalidProof,
    /// The server's signature is wrong: it does not know the user's secret.
    InvalidSignature,
    /// The server ended the exchange with an error value (`e=`), kept if it is a short word.
    ServerRefused {
        /// The value, such as `invalid-proof`; empty if it is not printable.
        value: String,
    },
    /// The method called is not the next step of this exchange.
    OutOfOrder,
}

impl ScramError {
    /// Whose doing the failure is.
    pub fn blame(&self) -> Blame {
        use ScramError::*;
        match self {
            Empty | TooLong { .. } | EmbeddedNul | UnexpectedAttribute { .. } | MissingEquals { .. } => {
                Blame::Malformed
            }
            BindingMissing | BindingDowngraded => Blame::Malformed,
            BadValue { .. } | BadBindingFlag { .. } | TrailingBytes | BindingMismatch | NonceMismatch => {
                Blame::Malformed
            }
            BindingUnsupported | AuthorizationIdentity | MandatoryExtension | TooManyIterations { .. } => {
                Blame::Unsupported
            }
            InvalidProof | InvalidSignature | ServerRefused { .. } => Blame::Credentials,
            OutOfOrder => Blame::Misuse,
        }
    }
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ScramError::*;
        match self {
            Empty => f.write_str("malformed SCRAM message: it is empty"),
            TooLong { len, max } => write!(f, "malformed SCRAM message: {len} bytes, at most {max} are accepted"),
            EmbeddedNul => f.write_str("malformed SCRAM message: it holds a NUL byte"),
            UnexpectedAttribute { expected, found } => {
                write!(f, "malformed SCRAM message: attribute {} expected, {} found", Name(*expected), Found(*found))
            }
            MissingEquals { attribute } => {
                write!(f, "malformed SCRAM message: \"=\" expected after attribute {}", Name(*attribute))
            }
            BadValue { attribute, fault } => {
                write!(f, "malformed SCRAM message: attribute {} {fault}", Name(*attribute))
            }
            BadBindingFlag { found } => {
                write!(f, "malformed SCRAM message: channel binding flag and comma expected, {} found", Found(*found))
            }
            TrailingBytes => f.write_str("malformed SCRAM message: bytes follow attribute \"p\""),
            BindingMismatch => f.write_str("SCRAM attribute \"c\" does not match the header of the first message"),
            NonceMismatch => f.write_str("SCRAM attribute \"r\" does not match the nonce of this exchange"),
            BindingUnsupported => f.write_str("SCRAM channel binding is not supported under the chosen mechanism"),
            BindingMissing => f.write_str("SCRAM-SHA-256-PLUS was chosen, but the first message binds no channel"),
            BindingDowngraded => f.write_str(
                "the client can bind the channel and believes that the server cannot, but it was offered: \
                 somebody may stand in between",
            ),
            AuthorizationIdentity => f.write_str("SCRAM attribute \"a\", authorization identity, is not supported"),
            MandatoryExtension => f.write_str("SCRAM attribute \"m\", a mandatory extension, is not supported"),
            TooManyIterations { iterations } => write!(
                f,
                "SCRAM attribute \"i\" asks for {iterations} iterations, at most {} are computed",
                super::ITERATIONS_MAX
            ),
            InvalidProof => f.write_str("SCRAM proof is invalid"),
            InvalidSignature => f.write_str("SCRAM signature of the server is invalid"),
            ServerRefused { value } => write!(f, "server ended the SCRAM exchange with error \"{value}\""),
            OutOfOrder => f.write_str("SCRAM step out of order"),
        }
    }
}

impl std::error::Error for ScramError {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::NotBase64 => "is not base64",
            Fault::WrongLength => "has the wrong length",
            Fault::NotPrintable => "holds unprintable characters",
            Fault::NotANumber => "is not a positive number",
        })
    }
}

/// An attribute's name in a message text: a quoted letter.
struct Name(u8);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_ascii_graphic() { write!(f, "\"{}\"", char::from(self.0)) } else { write!(f, "0x{:02x}", self.0) }
    }
}

/// What stands where something else should.
struct Found(Option<u8>);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(byte) => Name(byte).fmt(f),
            None => f.write_str("end of message"),
        }
    }
}
