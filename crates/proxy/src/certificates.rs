//! What stands in a certificate, as far as rustls does not look.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::asn1::{Any, ObjectIdentifier, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::BasicConstraints;

/// `id-at-commonName`.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// `id-ce-basicConstraints`.
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");

/// The name of whom a certificate is for: the first common name of its subject. None if it has none, or one that holds a NUL, as
/// who cuts it there would read another (CVE-2009-4034).
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let parts = certificate.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let value = parts.into_iter().find(|part| part.oid == COMMON_NAME).map(|part| &part.value)?;
    text(value).filter(|name| !name.is_empty() && !name.contains('\0'))
}

fn text(value: &Any) -> Option<String> {
    match value.tag() {
        Tag::Utf8String => Utf8StringRef::try_from(value).ok().map(|s| s.as_str().to_owned()),
        Tag::PrintableString => PrintableStringRef::try_from(value).ok().map(|s| s.as_str().to_owned()),
        Tag::TeletexString => TeletexStringRef::try_from(value).ok().map(|s| s.as_str().to_owned()),
        _ => None,
    }
}

/// May this one vouch for others? It has to say so, unless it is of a version in which that could not be said.
pub(crate) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok(certificate) = Certificate::from_der(certificate) else { return false };
    let extensions = certificate.tbs_certificate.extensions.unwrap_or_default();
    let constraints = extensions.iter().find(|extension| extension.extn_id == BASIC_CONSTRAINTS);
    match constraints.map(|extension| BasicConstraints::from_der(extension.extn_value.as_bytes())) {
        Some(Ok(constraints)) => constraints.ca,
        Some(Err(_)) => false,
        None => extensions.is_empty() && certificate.tbs_certificate.version == x509_cert::Version::V1,
    }
}

/// Is it in force at `now`, which is the time since 1970?
pub(crate) fn is_in_force(certificate: &CertificateDer<'_>, now: Duration) -> bool {
    let Ok(certificate) = Certificate::from_der(certificate) else { return false };
    let validity = certificate.tbs_certificate.validity;
    (validity.not_before.to_unix_duration()..=validity.not_after.to_unix_duration()).contains(&now)
}

/// The time since 1970.
pub(crate) fn today() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
