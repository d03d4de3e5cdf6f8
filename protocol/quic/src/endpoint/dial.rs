//! The agent's endpoint: it dials its core, and trusts nobody but cores of its authority.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use headwater_protocol::trust::{CertificateError, Fingerprint};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};

use super::{ClientOptions, close, options, socket, tls};
use crate::identity::Identity;
use crate::work;

/// quinn's default for the largest payload that an endpoint receives, in bytes.
const PAYLOAD_BYTES_DEFAULT: u16 = 1472;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No socket could be had.
    #[error("cannot open a UDP socket to reach {address}")]
    Socket {
        /// The core's address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS refused this side's key or certificate.
    #[error("this device's certificate can't be used with TLS")]
    Tls(#[source] rustls::Error),
    /// The attempt could not begin.
    #[error("cannot dial {address}")]
    Dial {
        /// The core's address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: quinn::ConnectError,
    },
    /// Nobody answered.
    #[error("no answer from {address} (UDP)")]
    TimedOut {
        /// The core's address.
        address: SocketAddr,
    },
    /// Somebody answered who is not a core of the pinned authority.
    #[error("{address} is not the core that this device knows")]
    Untrusted {
        /// The core's address.
        address: SocketAddr,
        /// What is wrong with its certificate.
        #[source]
        source: CertificateError,
    },
    /// The handshake failed, or the core refused.
    #[error("the connection to {address} failed: {}", close::describe(source))]
    Failed {
        /// The core's address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: ConnectionError,
    },
}

/// A name that can't be resolved to an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot find the address of `{address}`")]
pub struct ResolveError {
    /// What was to be resolved.
    pub address: String,
    /// Why it could not.
    #[source]
    pub source: io::Error,
}

/// The addresses that `host:port` stands for; at least one.
pub async fn resolve(address: &str) -> Result<Vec<SocketAddr>, ResolveError> {
    let failed = |source| ResolveError { address: address.to_owned(), source };
    let found: Vec<_> = tokio::net::lookup_host(address).await.map_err(failed)?.collect();
    if found.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(found)
}

/// A UDP socket from which to dial. Dropping it leaves its connections alive.
#[derive(Clone, Debug)]
pub struct Dialler {
    endpoint: Endpoint,
    options: ClientOptions,
    payload_max: u16,
}

impl Dialler {
    /// A socket that can reach `peer`. Must be called inside a tokio runtime.
    pub fn bind(peer: SocketAddr, options: &ClientOptions) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError::Socket { address: peer, source };
        let payload_max =
            if options::is_loopback(peer.ip()) { options.transport.payload_max() } else { options.transport.mtu_max };
        // The core looks for nothing beyond what this side says it takes.
        let seeks = options.transport.finds_mtu || options::is_loopback(peer.ip());
        let payload_max = if seeks { payload_max.clamp(PAYLOAD_BYTES_DEFAULT, 65_527) } else { options::MTU_MIN };
        let socket = Self::socket(peer, options, payload_max).map_err(failed)?;
        let mut config = work::endpoint_config();
        config.max_udp_payload_size(payload_max).expect("clamped to what QUIC allows");
        let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, work::runtime()).map_err(failed)?;
        Ok(Self { endpoint, options: options.clone(), payload_max })
    }

    /// Dials a core for a session.
    pub async fn connect(&self, address: SocketAddr, identity: &Identity) -> Result<Connection, ConnectError> {
        let (crypto, verdict) = tls::session_config(identity).map_err(ConnectError::Tls)?;
        self.dial(address, crypto, &verdict).await
    }

    async fn dial(
        &self,
        address: SocketAddr,
        crypto: QuicClientConfig,
        verdict: &tls::Verdict,
    ) -> Result<Connection, ConnectError> {
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut transport = self.options.transport.clone();
        if self.options.meter.as_ref().is_some_and(|meter| meter.cap().is_some()) {
            // One datagram of 64 KiB would be a burst of seconds under a small cap.
            transport.loopback_mtu = transport.mtu_max;
        }
        config.transport_config(Arc::new(transport.config(address.ip())));
        let connecting = self
            .endpoint
            .connect_with(config, address, tls::SERVER_NAME)
            .map_err(|source| ConnectError::Dial { address, source })?;
        match tokio::time::timeout(self.options.connect_timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Err(_) | Ok(Err(ConnectionError::TimedOut)) => Err(ConnectError::TimedOut { address }),
            Ok(Err(source)) => Err(match verdict.get() {
                Some(untrusted) => ConnectError::Untrusted { address, source: untrusted.clone() },
                None => ConnectError::Failed { address, source },
            }),
        }
    }

    /// Moves all connections to a new socket, after the machine's own address changed. They go on where they were.
    pub fn rebind(&self, peer: SocketAddr) -> io::Result<()> {
        self.endpoint.rebind_abstract(Self::socket(peer, &self.options, self.payload_max)?)
    }

    /// Waits until every connection of this socket is closed and its peer was told so.
    pub async fn wait_closed(&self) {
        self.endpoint.wait_idle().await;
    }

    /// The local address of the socket.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Waits until all connections have ended and the peers know.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }

    fn socket(
        peer: SocketAddr,
        options: &ClientOptions,
        payload_max: u16,
    ) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        let any: SocketAddr =
            if peer.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let (address, buffer_bytes) = (options.bind.unwrap_or(any), options.transport.socket_buffer_bytes);
        socket::open(address, buffer_bytes, options.meter.as_ref(), None, payload_max)
    }
}

/// Dials a core for a session, from a socket of its own. Must be called inside a tokio runtime.
///
/// A core that refuses the certificate can say so only after the handshake: then this succeeds, and the first read fails
/// with a [`ConnectionError`] that [`close::describe`] puts in words.
pub async fn connect(
    address: SocketAddr,
    identity: &Identity,
    options: &ClientOptions,
) -> Result<Connection, ConnectError> {
    Dialler::bind(address, options)?.connect(address, identity).await
}

/// Dials somebody who claims to be a core of this authority, to join it.
pub(crate) async fn dial_to_join(
    address: SocketAddr,
    authority: Fingerprint,
    options: &ClientOptions,
) -> Result<Connection, ConnectError> {
    let (crypto, verdict) = tls::join_config(authority).map_err(ConnectError::Tls)?;
    Dialler::bind(address, options)?.dial(address, crypto, &verdict).await
}
