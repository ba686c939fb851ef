//! Who is at the other end, as far as the connection itself tells: from where, how encrypted, with which certificate, as which user
//! of the system.

use std::net::IpAddr;

use pgsluice_config::Channel;
use rustls::pki_types::CertificateDer;

use crate::certificates::common_name;
use crate::failures::place_of;
use crate::net::{Kind, Stream};

/// What a client's connection tells of it.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) channel: Channel,
    /// None over a Unix socket.
    pub(crate) address: Option<IpAddr>,
    /// The certificate that it showed. An authority of ours vouches for it.
    certificate: Option<CertificateDer<'static>>,
    /// Who it is for the system, over a Unix socket.
    uid: Option<u32>,
    /// What its channel can be bound by; see [`pgsluice_auth::end_point`].
    pub(crate) end_point: Option<Vec<u8>>,
}

impl Caller {
    pub(crate) fn of(stream: &Stream, end_point: Option<Vec<u8>>) -> Self {
        let (channel, certificate, uid) = match stream {
            Stream::Tls(tls) => (Channel::Tls, tls.peer_certificate(), None),
            Stream::Plain(socket) if socket.kind() == Kind::Tcp => (Channel::Plain, None, None),
            Stream::Plain(socket) => {
                let peer = rustix::net::sockopt::socket_peercred(socket);
                (Channel::Local, None, peer.ok().map(|cred| cred.uid.as_raw()))
            }
        };
        let end_point = end_point.filter(|_| channel == Channel::Tls);
        let address = stream.peer().address;
        Self { channel, address, certificate, uid, end_point }
    }

    /// Of a connection that is not encrypted, without a look at who it is for the system.
    pub(crate) fn at(kind: Kind, address: Option<IpAddr>) -> Self {
        let channel = if kind == Kind::Tcp { Channel::Plain } else { Channel::Local };
        Self { channel, address, certificate: None, uid: None, end_point: None }
    }

    /// Where its failures are counted.
    pub(crate) fn place(&self) -> String {
        place_of(self.address)
    }

    pub(crate) fn has_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// Whom its certificate is for.
    pub(crate) fn common_name(&self) -> Option<String> {
        self.certificate.as_ref().and_then(common_name)
    }

    /// Its user's name in the system.
    pub(crate) async fn system_user(&self) -> Option<String> {
        let uid = self.uid?;
        // The system may have to ask elsewhere, which takes time.
        let found = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)));
        Some(found.await.ok()?.ok()??.name)
    }

    /// In PostgreSQL's words (`src/backend/libpq/auth.c`).
    pub(crate) fn describe(&self) -> (String, &'static str) {
        let host = self.address.map_or("[local]".to_owned(), |address| address.to_canonical().to_string());
        (host, if self.channel == Channel::Tls { "SSL encryption" } else { "no encryption" })
    }
}
