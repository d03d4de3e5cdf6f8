//! A QUIC endpoint in virtual time: quinn's own protocol state machine, with the transport settings and the congestion
//! controller that ship, and nothing of sockets and clocks.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event, ServerConfig,
    StreamEvent, StreamId, Transmit, TransportConfig, WriteError,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Name in the throw-away certificate.
const NAME: &str = "peer.invalid";
/// Bytes of a write.
const WRITE_BYTES: usize = 64 << 10;
/// What is written.
static DATA: [u8; WRITE_BYTES] = [0x5a; WRITE_BYTES];
/// A question and its answer.
const QUESTION_BYTES: u64 = 256;
const ANSWER_BYTES: u64 = 1024;
/// Datagrams in one call of quinn's.
const DATAGRAMS: usize = 10;

/// Keys of one pair of peers.
pub(super) struct Keys {
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
}

impl Keys {
    pub(super) fn new() -> Self {
        // Its signatures all have one length, so that the same seed gives the same packets.
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key can be made");
        let params = CertificateParams::new([NAME.to_owned()]).expect("it is a name");
        let cert = params.self_signed(&pair).expect("a certificate can be made");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("it is a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3 is there")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("key and certificate belong together");
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3 is there")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            server: Arc::new(QuicServerConfig::try_from(server).expect("the suites fit QUIC")),
            client: Arc::new(QuicClientConfig::try_from(client).expect("the suites fit QUIC")),
        }
    }
}

/// What a peer has to send.
#[derive(Debug)]
struct Sending {
    streams: Vec<StreamId>,
    streams_wanted: usize,
    left_bytes: u64,
    next: usize,
}

/// Questions and answers, one after the other on one stream.
#[derive(Debug, Default)]
struct Talk {
    stream: Option<StreamId>,
    /// At the end that dials: how many questions to ask, and how many it has asked.
    wanted: u32,
    asked: u32,
    read_bytes: u64,
    /// Bytes that are to be written.
    unwritten_bytes: u64,
}

/// One end.
pub(super) struct Peer {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    dials: bool,
    talk: Talk,
    sending: Option<Sending>,
    /// Payload bytes that were read.
    pub(super) received_bytes: u64,
    /// Datagrams to put onto the link.
    pub(super) outgoing: Vec<Vec<u8>>,
}

/// The other end's address, to both.
fn remote() -> SocketAddr {
    SocketAddr::from((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), 4733))
}

impl Peer {
    /// The end that listens.
    pub(super) fn listening(keys: &Keys, transport: TransportConfig, seed: u64) -> Self {
        let mut config = ServerConfig::with_crypto(keys.server.clone());
        config.transport_config(Arc::new(transport));
        Self::new(Some(Arc::new(config)), seed)
    }

    /// The end that dials, and will send.
    pub(super) fn dialling(keys: &Keys, transport: TransportConfig, now: Instant, seed: u64) -> Self {
        let mut peer = Self::new(None, seed);
        let mut config = ClientConfig::new(keys.client.clone());
        config.transport_config(Arc::new(transport));
        let connected = peer.endpoint.connect(now, config, remote(), NAME).expect("the settings are possible");
        peer.connection = Some(connected);
        peer
    }

    fn new(server: Option<Arc<ServerConfig>>, seed: u64) -> Self {
        let mut config = EndpointConfig::default();
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        config.rng_seed(Some(bytes));
        Self {
            dials: server.is_none(),
            endpoint: Endpoint::new(Arc::new(config), server, true, None),
            connection: None,
            talk: Talk::default(),
            sending: None,
            received_bytes: 0,
            outgoing: Vec::new(),
        }
    }

    /// Asks questions until there are so many in all.
    pub(super) fn ask(&mut self, questions: u32) {
        self.talk.wanted = questions;
    }

    /// How many were answered.
    pub(super) fn answered(&self) -> u32 {
        (self.talk.read_bytes / ANSWER_BYTES) as u32
    }

    /// Sends so many bytes, if it does not send already.
    pub(super) fn send(&mut self, bytes: u64, streams_wanted: usize) {
        self.sending.get_or_insert(Sending { streams: Vec::new(), streams_wanted, left_bytes: bytes, next: 0 });
    }

    /// Asks for a sign of life.
    pub(super) fn ping(&mut self, now: Instant) {
        if let Some((_, connection)) = &mut self.connection {
            connection.ping();
        }
        self.drive(now);
    }

    /// Bytes that came over the link.
    pub(super) fn heard_bytes(&self) -> u64 {
        self.connection.as_ref().map_or(0, |(_, connection)| connection.stats().udp_rx.bytes)
    }

    /// Whether its connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.connection.as_ref().is_some_and(|(_, connection)| connection.is_closed())
    }

    /// Smoothed round trip; zero without a connection.
    pub(super) fn rtt(&self) -> Duration {
        self.connection.as_ref().map_or(Duration::ZERO, |(_, connection)| connection.rtt())
    }

    /// When it wants to be called without a datagram.
    pub(super) fn timeout(&mut self) -> Option<Instant> {
        self.connection.as_mut().and_then(|(_, connection)| connection.poll_timeout())
    }

    /// The time that it named has come.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, connection)) = &mut self.connection {
            connection.handle_timeout(now);
        }
        self.drive(now);
    }

    /// A datagram has come.
    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        let mut buffer = Vec::new();
        match self.endpoint.handle(now, remote(), None, None, BytesMut::from(datagram), &mut buffer) {
            Some(DatagramEvent::NewConnection(incoming)) if self.connection.is_none() => {
                match self.endpoint.accept(incoming, now, &mut buffer, None) {
                    Ok(connected) => self.connection = Some(connected),
                    Err(error) => self.respond(error.response, &buffer),
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.endpoint.ignore(incoming),
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some((own, connection)) = &mut self.connection
                    && *own == handle
                {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.respond(Some(transmit), &buffer),
            None => {}
        }
        self.drive(now);
    }

    fn respond(&mut self, transmit: Option<Transmit>, buffer: &[u8]) {
        if let Some(transmit) = transmit {
            self.outgoing.push(buffer[..transmit.size].to_vec());
        }
    }

    /// Does what can be done at this moment.
    pub(super) fn drive(&mut self, now: Instant) {
        self.handle_events();
        self.talk();
        self.write();
        self.transmit(now);
    }

    fn handle_events(&mut self) {
        let Some((handle, connection)) = &mut self.connection else { return };
        loop {
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(*handle, event) {
                    connection.handle_event(event);
                }
            }
            match connection.poll() {
                Some(Event::Stream(StreamEvent::Opened { dir: Dir::Uni })) => {
                    while let Some(stream) = connection.streams().accept(Dir::Uni) {
                        self.received_bytes += read(connection, stream);
                    }
                }
                Some(Event::Stream(StreamEvent::Opened { dir: Dir::Bi })) => {
                    self.talk.stream = connection.streams().accept(Dir::Bi);
                    if let Some(stream) = self.talk.stream {
                        self.talk.read_bytes += read(connection, stream);
                    }
                }
                Some(Event::Stream(StreamEvent::Readable { id })) => {
                    let bytes = read(connection, id);
                    let counter =
                        if self.talk.stream == Some(id) { &mut self.talk.read_bytes } else { &mut self.received_bytes };
                    *counter += bytes;
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Asks the next question when the last is answered; answers what was asked.
    fn talk(&mut self) {
        let (answered, talk) = (self.answered(), &mut self.talk);
        let Some((_, connection)) = &mut self.connection else { return };
        if self.dials {
            if talk.stream.is_none() {
                talk.stream = connection.streams().open(Dir::Bi);
            }
            if talk.asked < talk.wanted && talk.asked == answered {
                talk.asked += 1;
                talk.unwritten_bytes += QUESTION_BYTES;
            }
        } else {
            let questions = (talk.read_bytes / QUESTION_BYTES) as u32;
            talk.unwritten_bytes += u64::from(questions - talk.asked) * ANSWER_BYTES;
            talk.asked = questions;
        }
        let Some(stream) = talk.stream.filter(|_| talk.unwritten_bytes > 0) else { return };
        if let Ok(written) = connection.send_stream(stream).write(&DATA[..talk.unwritten_bytes as usize]) {
            talk.unwritten_bytes -= written as u64;
        }
    }

    fn write(&mut self) {
        let (Some((_, connection)), Some(sending)) = (&mut self.connection, &mut self.sending) else { return };
        while sending.streams.len() < sending.streams_wanted {
            let Some(stream) = connection.streams().open(Dir::Uni) else { break };
            sending.streams.push(stream);
        }
        let mut blocked = 0;
        while blocked < sending.streams.len() && sending.left_bytes > 0 {
            let stream = sending.streams[sending.next % sending.streams.len()];
            sending.next += 1;
            let length = sending.left_bytes.min(WRITE_BYTES as u64) as usize;
            match connection.send_stream(stream).write(&DATA[..length]) {
                Ok(0) | Err(WriteError::Blocked) => blocked += 1,
                Ok(written) => {
                    sending.left_bytes -= written as u64;
                    blocked = 0;
                }
                Err(_) => return,
            }
        }
    }

    fn transmit(&mut self, now: Instant) {
        let Some((_, connection)) = &mut self.connection else { return };
        let mut buffer = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now, DATAGRAMS, &mut buffer) {
            let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
            self.outgoing.extend(buffer[..transmit.size].chunks(segment).map(<[u8]>::to_vec));
            buffer.clear();
        }
    }
}

/// Reads all that a stream has.
fn read(connection: &mut Connection, stream: StreamId) -> u64 {
    let mut stream = connection.recv_stream(stream);
    let Ok(mut chunks) = stream.read(true) else { return 0 };
    let mut bytes = 0;
    while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
        bytes += chunk.bytes.len() as u64;
    }
    // What this allows to be sent goes out with the next transmit.
    let _ = chunks.finalize();
    bytes
}
