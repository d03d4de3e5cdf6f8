//! The core's endpoint: one port for sessions and for joining.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headwater_protocol::id::PublicKey;
use headwater_protocol::trust::{Certificate, CertificateError, CertificateUse};
use headwater_protocol::wire::{ALPN_JOIN, ALPN_SESSION};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, Endpoint, ServerConfig, VarInt};
use rustls::pki_types::CertificateDer;

use super::lane::{Downstream, Lane, Lanes};
use super::{ServerOptions, close, options, reset, socket, tls};
use crate::identity::{Authority, Identity, IdentityError};
use crate::work;

/// What a peer can make a core hold before it is recognised, in bytes: a request to join, or the first messages of a session.
const UNKNOWN_PEER_WINDOW_BYTES: u32 = 128 << 10;
const _: () = assert!(UNKNOWN_PEER_WINDOW_BYTES as usize > 2 * crate::join::JOIN_BYTES_MAX);
/// Handshakes in progress from which on clients must first prove that their address is theirs.
const HANDSHAKES_UNVALIDATED_MAX: usize = 256;

/// Why a core can't listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, or not of this machine.
    #[error("cannot listen on {address} (UDP)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The core's identity is not of its authority.
    #[error("this core's identity can't be used")]
    Identity(#[source] IdentityError),
    /// TLS refused the key or certificate.
    #[error("this core's certificate can't be used with TLS")]
    Tls(#[source] rustls::Error),
}

/// A listening endpoint.
#[derive(Clone, Debug)]
pub struct Listener {
    endpoint: Endpoint,
    authority: Certificate,
    configs: Arc<Configs>,
    handshake_timeout: Duration,
    /// Receive window of a connection once its peer is recognised.
    window: VarInt,
    in_progress: Arc<AtomicUsize>,
    lanes: Arc<Lanes>,
}

#[derive(Debug)]
struct Configs {
    loopback: Arc<ServerConfig>,
    network: Arc<ServerConfig>,
}

/// Listens for sessions and joining on one UDP port. Must be called inside a tokio runtime.
pub fn listen(
    address: SocketAddr,
    authority: &Authority,
    identity: &Identity,
    options: &ServerOptions,
) -> Result<Listener, ListenError> {
    let core = Certificate::parse_issued(identity.certificate(), authority.parsed(), CertificateUse::Core);
    core.map_err(|error| ListenError::Identity(error.into()))?;
    let configs = server_configs(identity, options)?;
    let bind = |source| ListenError::Bind { address, source };
    let payload_max = options.transport.payload_max();
    let lanes = Arc::<Lanes>::default();
    let buffer_bytes = options.transport.socket_buffer_bytes;
    let socket =
        socket::open(address, buffer_bytes, options.meter.as_ref(), Some(&lanes), payload_max).map_err(bind)?;
    let mut config = work::endpoint_config();
    config.max_udp_payload_size(payload_max).expect("the option is clamped to what QUIC allows");
    reset::remember_across_restarts(&mut config, identity);
    let default = Some((*configs.network).clone());
    let endpoint = Endpoint::new_with_abstract_socket(config, default, socket, work::runtime()).map_err(bind)?;
    Ok(Listener {
        endpoint,
        authority: authority.parsed().clone(),
        configs: Arc::new(configs),
        handshake_timeout: options.handshake_timeout,
        window: VarInt::from_u32(options.transport.connection_window_bytes),
        in_progress: Arc::default(),
        lanes,
    })
}

fn server_configs(identity: &Identity, options: &ServerOptions) -> Result<Configs, ListenError> {
    let crypto = Arc::new(tls::server_config(identity).map_err(ListenError::Tls)?);
    let with_transport = |peer: std::net::IpAddr| {
        let mut transport = options.transport.config(peer);
        let window_bytes = options.transport.connection_window_bytes.min(UNKNOWN_PEER_WINDOW_BYTES);
        transport.receive_window(VarInt::from_u32(window_bytes));
        let mut config = ServerConfig::with_crypto(crypto.clone());
        config.transport_config(Arc::new(transport)).max_incoming(options.handshakes_max);
        Arc::new(config)
    };
    Ok(Configs {
        loopback: with_transport(std::net::Ipv4Addr::LOCALHOST.into()),
        network: with_transport(std::net::Ipv4Addr::UNSPECIFIED.into()),
    })
}

impl Listener {
    /// The next one who knocks; none once the listener is closed. Finish each in a task of its own, so that a slow
    /// handshake holds up nobody.
    pub async fn accept(&self) -> Option<Arriving> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let busy = self.in_progress.load(Ordering::Relaxed) >= HANDSHAKES_UNVALIDATED_MAX;
            if busy && !incoming.remote_address_validated() && incoming.may_retry() {
                // It comes back with the token if the address is its own. The error case is ruled out by `may_retry`.
                let _ = incoming.retry();
                continue;
            }
            self.in_progress.fetch_add(1, Ordering::Relaxed);
            return Some(Arriving {
                remote: incoming.remote_address(),
                incoming,
                listener: self.clone(),
                _in_progress: InProgress(self.in_progress.clone()),
            });
        }
    }

    /// The address that it listens on, with the port that the system chose where 0 was asked for.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Ends all connections and accepts no more; waits until the peers know.
    pub async fn close(&self, reason: &str) {
        self.endpoint.close(close::SHUTDOWN, reason.as_bytes());
        self.endpoint.wait_idle().await;
    }
}

#[derive(Debug)]
struct InProgress(Arc<AtomicUsize>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One who has knocked, and whose handshake is still to be made.
#[derive(Debug)]
pub struct Arriving {
    /// Where from.
    pub remote: SocketAddr,
    incoming: quinn::Incoming,
    listener: Listener,
    _in_progress: InProgress,
}

/// One whose handshake is made.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per connection, and it is taken apart at once")]
pub enum Arrival {
    /// A session with one who holds the key of a certificate of our authority. Whether that key is still welcome is for
    /// the device list to say.
    Session {
        /// The connection.
        connection: Connection,
        /// Who it is.
        peer: Peer,
        /// What goes there.
        downstream: Downstream,
    },
    /// One who wants to join; see [`crate::join::serve_join`].
    Join(Connection),
}

/// Who is at the other end, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The key that it proved to hold.
    pub key: PublicKey,
    /// The name in its certificate; the device list's name counts.
    pub name: String,
    /// Its certificate (DER).
    pub certificate: Vec<u8>,
    /// What the certificate says.
    pub parsed: Certificate,
}

/// Why nothing came of one who knocked. None of these is the core's fault.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalError {
    /// The handshake failed.
    #[error("the handshake with {remote} failed")]
    Handshake {
        /// Where from.
        remote: SocketAddr,
        /// Why.
        #[source]
        source: ConnectionError,
    },
    /// It took too long.
    #[error("the handshake with {0} took too long")]
    TimedOut(SocketAddr),
    /// It asked for a session without a certificate.
    #[error("{0} asked for a session without a certificate")]
    NoCertificate(SocketAddr),
    /// Its certificate does not serve.
    #[error("{remote} showed a certificate that does not serve")]
    Certificate {
        /// Where from.
        remote: SocketAddr,
        /// What is wrong with it.
        #[source]
        source: CertificateError,
    },
}

impl Arriving {
    /// Makes the handshake, and finds out what the peer wants and, for a session, who it is.
    pub async fn finish(self) -> Result<Arrival, ArrivalError> {
        let remote = self.remote;
        let handshake = |source| ArrivalError::Handshake { remote, source };
        let configs = &self.listener.configs;
        let config = if options::is_loopback(remote.ip()) { &configs.loopback } else { &configs.network };
        let (lane, incoming) = (Arc::<Lane>::default(), self.incoming);
        let connecting = lane.accept(|| incoming.accept_with(config.clone())).map_err(handshake)?;
        let connection = tokio::time::timeout(self.listener.handshake_timeout, connecting)
            .await
            .map_err(|_| ArrivalError::TimedOut(remote))?
            .map_err(handshake)?;
        match protocol(&connection).as_deref() {
            Some(protocol) if protocol == ALPN_JOIN => Ok(Arrival::Join(connection)),
            Some(protocol) if protocol == ALPN_SESSION => match recognise(&connection, &self.listener.authority) {
                Ok(Some(peer)) => {
                    connection.set_receive_window(self.listener.window);
                    let downstream = self.listener.lanes.enter(&lane, peer.key);
                    Ok(Arrival::Session { connection, peer, downstream })
                }
                Ok(None) => {
                    connection.close(close::UNKNOWN_PEER, b"this core needs a certificate; join it with a token first");
                    Err(ArrivalError::NoCertificate(remote))
                }
                Err(source) => {
                    let said = format!("this core does not accept the certificate: {source}");
                    connection.close(close::UNKNOWN_PEER, said.as_bytes());
                    Err(ArrivalError::Certificate { remote, source })
                }
            },
            _ => {
                connection.close(close::PROTOCOL, b"no known protocol was agreed on");
                Err(handshake(ConnectionError::LocallyClosed))
            }
        }
    }

    /// Sends it away without a handshake.
    pub fn refuse(self) {
        self.incoming.refuse();
    }
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

fn recognise(connection: &Connection, authority: &Certificate) -> Result<Option<Peer>, CertificateError> {
    let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(leaf) = chain.as_deref().and_then(|chain| chain.first()) else { return Ok(None) };
    let parsed = Certificate::parse_issued(leaf, authority, CertificateUse::Device)?;
    Ok(Some(Peer { key: parsed.public_key, name: parsed.name.clone(), certificate: leaf.to_vec(), parsed }))
}
