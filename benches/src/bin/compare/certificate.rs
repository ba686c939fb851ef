//! A key and a certificate that signed itself, made with openssl(1).

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use pgsluice_benches::tls::HOST;

/// What a certificate is signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// ECDSA, P-256.
    Ecdsa,
    /// RSA, 2048 bits.
    Rsa,
}

impl Key {
    /// Makes both files, which whichever user a pooler runs as can read.
    ///
    /// # Errors
    /// When openssl cannot be run, or does not do it.
    pub(crate) fn make(self, certificate: &Path, key: &Path) -> io::Result<()> {
        let kind: &[&str] = match self {
            Key::Ecdsa => &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Key::Rsa => &["rsa:2048"],
        };
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-days", "30", "-newkey"]).args(kind).args(["-subj", "/CN=a pooler"]);
        command.args([
            "-addext",
            &format!("subjectAltName=DNS:{HOST}"),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        command.arg("-out").arg(certificate).arg("-keyout").arg(key).stdout(Stdio::null());
        let output = command.output().map_err(|e| io::Error::new(e.kind(), format!("openssl: {e}")))?;
        if !output.status.success() {
            return Err(io::Error::other(format!("openssl: {}", String::from_utf8_lossy(&output.stderr))));
        }
        fs::set_permissions(key, fs::Permissions::from_mode(0o644))
    }
}
