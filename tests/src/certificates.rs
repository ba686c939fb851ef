//! An authority of our own, and what it signs. Every call makes new keys.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::process::Directory;

/// An authority, and the directory its files lie in.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    files: Directory,
}

/// A certificate and its key, both files in PEM.
pub struct Identity {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Identity {
    /// The settings of a pooler that shows this to clients, and takes their certificates if this authority has signed them.
    pub fn for_clients(&self, mode: &str, authority: &Path) -> String {
        format!(
            "client_tls_sslmode = \"{mode}\"\nclient_tls_cert_file = \"{}\"\nclient_tls_key_file = \"{}\"\n\
             client_tls_ca_file = \"{}\"\n",
            self.cert.display(),
            self.key.display(),
            authority.display()
        )
    }

    /// As libpq's connection strings name it.
    pub fn conninfo(&self) -> String {
        format!("sslcert={} sslkey={}", self.cert.display(), self.key.display())
    }
}

impl Authority {
    /// A new one.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("a key");
        Authority {
            issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate"),
            files: Directory::fresh("certificates"),
        }
    }

    /// Its certificate, a file in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.files.write("authority.pem", &self.issuer.pem())
    }

    /// A certificate for `subject` that is good for these host names and addresses. Files of the same `file` are replaced.
    pub fn sign(&self, file: &str, subject: &str, hosts: &[&str]) -> Identity {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.distinguished_name.push(DnType::CommonName, subject);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { cert: self.files.write(&format!("{file}.pem"), &cert.pem()), key: self.key(file, &key) }
    }

    /// One that signed itself, as people make them with openssl: an authority by its form.
    pub fn self_signed(&self, file: &str, hosts: &[&str]) -> Identity {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        Identity { cert: self.files.write(&format!("{file}.pem"), &cert.pem()), key: self.key(file, &key) }
    }

    /// libpq takes no key that others can read.
    fn key(&self, file: &str, key: &KeyPair) -> PathBuf {
        let path = self.files.write(&format!("{file}.key"), &key.serialize_pem());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("it is ours");
        path
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
