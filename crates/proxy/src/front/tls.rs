//! Certificates and keys from files to what rustls needs, and TLS on the way in and out.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pgsluice_config::{Config, Problem, ProblemKind, Settings, SslMode, SslNegotiation, TlsProtocols};
use pgsluice_wire::FrontendWriter;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tracing::{debug, info, warn};

use super::Front;
use crate::certificates::{common_name, is_authority, is_in_force, today};
use crate::net::Stream;
use crate::spec::Address;
use crate::tls::{ALPN, TlsStream};

/// Between two looks at whether the files have changed.
const LOOK: Duration = Duration::from_secs(1);
const NO_AUTHORITY: &str = "holds no certificate of an authority that is in force";
/// PostgreSQL's answers to SSLRequest.
const ENCRYPTED: u8 = b'S';
const PLAIN: u8 = b'N';

/// Whether all certificates and keys that the settings name are of use.
///
/// # Errors
/// The first that is not.
pub fn check_tls(config: &Config) -> Result<(), Problem> {
    Tls::load(config).map(drop)
}

/// TLS as configured. Connections keep what was in force when they began.
#[derive(Debug)]
pub(super) struct Tls {
    /// None: clients are not offered it.
    pub(super) clients: Option<Arc<ForClients>>,
    /// None: servers are not asked for it.
    servers: Option<Arc<ClientConfig>>,
    /// The files, as they were when they were read.
    files: Vec<(PathBuf, Stamp)>,
}

/// What clients are offered.
#[derive(Clone, Debug)]
pub(crate) struct ForClients {
    pub(crate) config: Arc<ServerConfig>,
    /// What they can bind the channel by; see [`pgsluice_auth::end_point`].
    pub(crate) end_point: Option<Vec<u8>>,
}

/// When a file was written and how long it is; none if it cannot be seen.
type Stamp = Option<(SystemTime, u64)>;

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

impl Tls {
    /// Reads all files.
    ///
    /// # Errors
    /// The first file that is of no use.
    pub(super) fn load(config: &Config) -> Result<Self, Problem> {
        let settings = &config.settings;
        let files = [
            &settings.client_tls_cert_file,
            &settings.client_tls_key_file,
            &settings.client_tls_ca_file,
            &settings.server_tls_cert_file,
            &settings.server_tls_key_file,
            &settings.server_tls_ca_file,
        ];
        // Before they are read: what changes meanwhile is read again.
        let files = files.into_iter().flatten().map(|path| (path.clone(), stamp(path))).collect();
        let provider = Arc::new(ring::default_provider());
        let clients = match settings.client_tls_sslmode {
            SslMode::Disable => None,
            _ => Some(Arc::new(for_clients(settings, asks(config), &provider)?)),
        };
        let servers = match settings.server_tls_sslmode {
            SslMode::Disable => None,
            mode => Some(Arc::new(for_servers(settings, mode, &provider)?)),
        };
        Ok(Self { clients, servers, files })
    }

    fn has_changed(&self) -> bool {
        self.files.iter().any(|(path, before)| stamp(path) != *before)
    }
}

fn for_clients(settings: &Settings, asks: Asks, provider: &Arc<CryptoProvider>) -> Result<ForClients, Problem> {
    let (cert, key) = identity(
        ("client_tls_cert_file", &settings.client_tls_cert_file),
        ("client_tls_key_file", &settings.client_tls_key_file),
    )?
    .ok_or_else(|| wrong("client_tls_cert_file", Path::new(""), "is not set"))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(settings.client_tls_protocols))
        .map_err(|e| wrong("client_tls_protocols", Path::new(""), e))?;
    let builder = match (&settings.client_tls_ca_file, asks) {
        (Some(path), Asks::All | Asks::WhoHasOne) => {
            let (roots, _) = authorities("client_tls_ca_file", path)?;
            let roots = roots.ok_or_else(|| wrong("client_tls_ca_file", path, NO_AUTHORITY))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            let verifier = if asks == Asks::All { verifier } else { verifier.allow_unauthenticated() }.build();
            builder.with_client_cert_verifier(verifier.map_err(|e| wrong("client_tls_ca_file", path, e))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let end_point = cert.first().and_then(|own| pgsluice_auth::end_point(own));
    let mut config = builder.with_single_cert(cert, key).map_err(|e| {
        let path = settings.client_tls_key_file.clone().unwrap_or_default();
        wrong("client_tls_key_file", &path, e)
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A client that comes again need not show its certificate again, nor have us sign.
    match ring::Ticketer::new() {
        Ok(ticketer) => {
            config.ticketer = ticketer;
            // A client needs one for the next time; it gets another then.
            config.send_tls13_tickets = 1;
        }
        Err(error) => warn!(%error, "TLS sessions cannot be resumed"),
    }
    Ok(ForClients { config: Arc::new(config), end_point })
}

fn for_servers(settings: &Settings, mode: SslMode, provider: &Arc<CryptoProvider>) -> Result<ClientConfig, Problem> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(settings.server_tls_protocols))
        .map_err(|e| wrong("server_tls_protocols", Path::new(""), e))?;
    let (mut chains, mut listed) = (None, Vec::new());
    if let (Some(path), true) = (&settings.server_tls_ca_file, mode.verifies()) {
        let (roots, servers) = authorities("server_tls_ca_file", path)?;
        if let Some(roots) = roots {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            chains = Some(verifier.map_err(|e| wrong("server_tls_ca_file", path, e))?);
        }
        listed = servers;
    }
    let (verifies, names) = (mode.verifies(), mode == SslMode::VerifyFull);
    let verifier = Verifier { verifies, chains, listed, names, provider: provider.clone() };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let own = identity(
        ("server_tls_cert_file", &settings.server_tls_cert_file),
        ("server_tls_key_file", &settings.server_tls_key_file),
    )?;
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder.with_client_auth_cert(cert, key).map_err(|e| {
            let path = settings.server_tls_key_file.clone().unwrap_or_default();
            wrong("server_tls_key_file", &path, e)
        })?,
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Which clients are asked for certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Nobody,
    /// All, and who has none is not let in.
    All,
    /// All, and rules say what becomes of who has none.
    WhoHasOne,
}

fn asks(config: &Config) -> Asks {
    let rules = config.hba.as_ref().map(pgsluice_config::Hba::rules).unwrap_or_default();
    if config.settings.client_tls_sslmode.verifies() {
        Asks::All
    } else if rules.iter().any(|rule| rule.client_cert.is_some()) {
        Asks::WhoHasOne
    } else {
        Asks::Nobody
    }
}

fn versions(protocols: TlsProtocols) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(protocols.tls13, &rustls::version::TLS13), (protocols.tls12, &rustls::version::TLS12)];
    all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, version)| version).collect()
}

/// Certificates as a file has them.
type Listed = Vec<CertificateDer<'static>>;
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);
type File<'a> = (&'static str, &'a Option<PathBuf>);

/// A certificate, with those behind it, and its key; none if none is configured.
fn identity((cert_key, cert): File<'_>, (key_key, key): File<'_>) -> Result<Option<Identity>, Problem> {
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(None) };
    let certificates = certificates(cert_key, cert)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| match e {
        pem::Error::NoItemsFound => wrong(key_key, key, "holds no private key in PEM that is not encrypted"),
        other => wrong(key_key, key, other),
    })?;
    Ok(Some((certificates, private)))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|e| wrong(key, path, e))?;
    if all.is_empty() { Err(wrong(key, path, "holds no certificate in PEM")) } else { Ok(all) }
}

/// Of a file of authorities, those that may vouch for others, if there are any; and all of it, as a server's own certificate may
/// stand there. An authority that is past its time is of no use.
fn authorities(key: &'static str, path: &Path) -> Result<(Option<RootCertStore>, Listed), Problem> {
    let listed = certificates(key, path)?;
    let mut roots = RootCertStore::empty();
    let now = today();
    for one in listed.iter().filter(|one| is_authority(one)) {
        if is_in_force(one, now) {
            roots.add(one.clone()).map_err(|e| wrong(key, path, e))?;
        } else {
            let name = common_name(one).unwrap_or_default();
            warn!("{key} {}: the authority \"{name}\" is not in force and vouches for nobody", path.display());
        }
    }
    Ok(((!roots.is_empty()).then_some(roots), listed))
}

fn wrong(key: &'static str, path: &Path, why: impl fmt::Display) -> Problem {
    let kind = ProblemKind::BadFile { path: path.into(), why: why.to_string() };
    Problem { file: None, line: None, key: key.into(), kind }
}

/// Certificates of servers, as libpq's `sslmode` has it.
#[derive(Debug)]
struct Verifier {
    /// Otherwise any certificate will do.
    verifies: bool,
    /// None: no authority is known.
    chains: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates in the file of authorities: a server's own may be among them.
    listed: Vec<CertificateDer<'static>>,
    /// Its certificate has to be for the host's name.
    names: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.verifies {
            return Ok(ServerCertVerified::assertion());
        }
        // A certificate that signed itself, as people make them, is often its own authority, which no server's is to be; it is
        // good because it is listed, and for nobody but itself.
        if self.listed.iter().any(|listed| listed == end_entity) {
            return self.verify_listed(end_entity, server_name, now);
        }
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let chains = self.chains.as_ref().ok_or_else(unknown)?;
        match chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is looked at first.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Verifier {
    fn verify_listed(
        &self,
        end_entity: &CertificateDer<'_>,
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !is_in_force(end_entity, Duration::from_secs(now.as_secs())) {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Expired));
        }
        if self.names {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }
}

async fn encrypt(stream: Stream, config: Arc<ClientConfig>, address: &Address) -> io::Result<Stream> {
    let name = ServerName::try_from(address.host.clone())
        .map_err(|_| io::Error::other(format!("TLS needs a host name or address, not {}", address.host)))?;
    let Stream::Plain(socket) = stream else { return Ok(stream) };
    let stream = TlsStream::connect(socket, config, name).await?;
    Ok(Stream::Tls(Box::new(stream)))
}

impl Front {
    /// A connection to PostgreSQL, encrypted if that is configured and the server agrees; nothing is said yet.
    ///
    /// # Errors
    /// It cannot be reached, or not as the configuration has it.
    pub(super) async fn connect(&self, address: &Address) -> io::Result<Stream> {
        let stream = self.connect_plain(address).await?;
        let settings = self.config().settings.clone();
        let config = self.tls.borrow().servers.clone();
        let (Some(config), false) = (config, address.host.starts_with('/')) else { return Ok(stream) };
        if settings.server_tls_sslnegotiation == SslNegotiation::Direct {
            return match encrypt(stream, config, address).await? {
                // Who does not say so may be another protocol's server (ALPACA).
                stream if stream.has_alpn() => Ok(stream),
                _ => Err(io::Error::other("it did not agree on PostgreSQL's protocol by ALPN, as direct TLS asks for")),
            };
        }
        let mut request = Vec::new();
        FrontendWriter(&mut request).ssl_request();
        stream.write_all(&request).await?;
        let mut answer = Vec::new();
        // No more than the answer: what comes in the clear behind it is nobody's (CVE-2021-23222).
        if stream.read_some(&mut answer, 1).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection when it was asked for TLS",
            ));
        }
        match answer[0] {
            ENCRYPTED => match encrypt(stream, config, address).await {
                // As libpq does with sslmode=prefer.
                Err(error) if !settings.server_tls_sslmode.is_strict() => {
                    debug!(server = %address, %error, "no TLS: going on without");
                    self.connect_plain(address).await
                }
                outcome => outcome,
            },
            PLAIN if !settings.server_tls_sslmode.is_strict() => Ok(stream),
            PLAIN => Err(io::Error::other(format!(
                "it has no TLS, and server_tls_sslmode is {}",
                settings.server_tls_sslmode.as_str()
            ))),
            // An error, in the words of a server that knows nothing of TLS.
            _ if settings.server_tls_sslmode.is_strict() => Err(io::Error::other("it does not know TLS")),
            _ => self.connect_plain(address).await,
        }
    }

    async fn connect_plain(&self, address: &Address) -> io::Result<Stream> {
        let stream = Stream::connect(&address.host, address.port).await?;
        stream.tune(self.config().settings.tcp_keepalive);
        Ok(stream)
    }

    /// Reads certificates and keys again when their files change, for as long as the process lives.
    pub(super) async fn watch_certificates(self: Rc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.tls.borrow().has_changed() {
                continue;
            }
            // As they are before they are read: what is still being written is looked at again.
            let seen = self.tls.borrow().files.iter().map(|(path, _)| (path.clone(), stamp(path))).collect();
            match Tls::load(&self.config()) {
                Ok(tls) => {
                    info!("certificates read again: their files have changed");
                    self.reception.book().tls.clone_from(&tls.clients);
                    *self.tls.borrow_mut() = tls;
                }
                Err(error) => {
                    warn!("{error}; what was read before stays in force");
                    // Said once for each change.
                    self.tls.borrow_mut().files = seen;
                }
            }
        }
    }
}
