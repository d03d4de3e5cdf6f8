//! What can be set about the transport, with defaults that fit a slow link as well as a fast one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::WireMeter;
use crate::congestion::BdpConfig;

/// Largest UDP payload that is tried by default: what Ethernet carries.
pub const MTU_DEFAULT: u16 = 1452;
/// UDP payload between two processes of one machine, where the loopback interface carries 64 KiB.
pub const LOOPBACK_MTU: u16 = 65_000;
/// Smallest MTU that a setting may name: what every QUIC path carries.
pub(super) const MTU_MIN: u16 = 1200;
/// How long a loopback connection stays at the smallest payload after losses that looked like a black hole.
const LOOPBACK_BLACK_HOLE_COOLDOWN: Duration = Duration::from_secs(5);
/// Datagrams that quinn gives to the kernel in one call.
const GSO_SEGMENTS: usize = 10;
/// Bytes that the kernel takes in one call: a larger one is refused, and all of its datagrams are lost.
const GSO_BYTES_MAX: usize = 65_507;
/// Datagrams' worth of data that the first round trip may carry on loopback, where nothing has to be found out.
const LOOPBACK_INITIAL_DATAGRAMS: u64 = 16;

/// How the sending rate reacts to loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// RFC 9002.
    NewReno,
    /// A model of bandwidth and round trip: better on lossy links, experimental in quinn.
    Bbr,
    /// One bandwidth-delay product in flight and a third more, whatever is lost: [`crate::congestion`]. The default: measured as
    /// fast as the others on good links, and faster on bad ones.
    #[default]
    Bdp,
}

/// A name that is no congestion controller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no congestion controller; there are bdp, cubic, newreno and bbr")]
pub struct ParseCongestionError(String);

impl std::str::FromStr for Congestion {
    type Err = ParseCongestionError;

    fn from_str(text: &str) -> Result<Self, ParseCongestionError> {
        match text {
            "cubic" => Ok(Self::Cubic),
            "newreno" => Ok(Self::NewReno),
            "bbr" => Ok(Self::Bbr),
            "bdp" => Ok(Self::Bdp),
            other => Err(ParseCongestionError(other.chars().take(80).collect())),
        }
    }
}

/// What both ends can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportOptions {
    /// Receive window of one stream, in bytes. Several streams with small windows, not one with a huge one: more than
    /// about a thousand holes in one stream end the connection.
    pub stream_window_bytes: u32,
    /// Receive window of the whole connection, in bytes: what the peer can make this side hold.
    pub connection_window_bytes: u32,
    /// Unacknowledged bytes that this side holds for the peer at most.
    pub send_window_bytes: u64,
    /// Streams of either kind that the peer may have open.
    pub streams_max: u32,
    /// How the sending rate reacts to loss.
    pub congestion: Congestion,
    /// Largest UDP payload to discover, in bytes.
    pub mtu_max: u16,
    /// Whether larger payloads than what every path carries are looked for, by either side: that costs some probes of full
    /// length, which is more than a short exchange itself.
    pub finds_mtu: bool,
    /// UDP payload to use, without discovery, where the peer is on this machine; `mtu_max` where that is larger.
    pub loopback_mtu: u16,
    /// Whether several datagrams go to the kernel in one call. Some network drivers can't.
    pub gso: bool,
    /// How often to send something on a silent connection; none to let it end.
    pub keep_alive: Option<Duration>,
    /// After how long a silence a connection is given up.
    pub idle_timeout: Duration,
    /// Size to ask for of the socket's receive and send buffers, in bytes; the kernel may give less.
    pub socket_buffer_bytes: usize,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            stream_window_bytes: 3 << 20,
            connection_window_bytes: 24 << 20,
            send_window_bytes: 24 << 20,
            streams_max: 32,
            congestion: Congestion::default(),
            mtu_max: MTU_DEFAULT,
            finds_mtu: true,
            loopback_mtu: LOOPBACK_MTU,
            gso: true,
            keep_alive: None,
            idle_timeout: Duration::from_mins(1),
            socket_buffer_bytes: 7 << 20,
        }
    }
}

/// What a core can set.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The transport.
    pub transport: TransportOptions,
    /// Handshakes that may wait to be accepted at once; more are refused.
    pub handshakes_max: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Counts what goes over the socket.
    pub meter: Option<Arc<WireMeter>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            transport: TransportOptions::default(),
            handshakes_max: 4096,
            handshake_timeout: Duration::from_secs(20),
            meter: None,
        }
    }
}

/// What an agent can set.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The transport.
    pub transport: TransportOptions,
    /// Local address to send from; none lets the system choose.
    pub bind: Option<SocketAddr>,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// Counts, and where told limits, what goes over the socket.
    pub meter: Option<Arc<WireMeter>>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            transport: TransportOptions { keep_alive: Some(Duration::from_secs(20)), ..TransportOptions::default() },
            bind: None,
            connect_timeout: Duration::from_secs(20),
            meter: None,
        }
    }
}

impl TransportOptions {
    /// quinn's configuration for a peer at this address.
    pub fn config(&self, peer: IpAddr) -> TransportConfig {
        let loopback = is_loopback(peer);
        let mut config = TransportConfig::default();
        config
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .receive_window(VarInt::from_u32(self.connection_window_bytes))
            .send_window(self.send_window_bytes)
            .max_concurrent_bidi_streams(VarInt::from_u32(self.streams_max))
            .max_concurrent_uni_streams(VarInt::from_u32(self.streams_max))
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(self.keep_alive)
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok());
        let mtu = if loopback { self.mtu_for_loopback() } else { self.mtu_max.max(MTU_MIN) };
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(mtu);
        if loopback {
            // Nothing has to be found out. Should a burst of losses look like a black hole, it is retried soon.
            discovery.black_hole_cooldown(LOOPBACK_BLACK_HOLE_COOLDOWN);
            config.initial_mtu(mtu);
        }
        config
            .mtu_discovery_config(Some(discovery).filter(|_| loopback || self.finds_mtu))
            .enable_segmentation_offload(self.gso && usize::from(mtu) * GSO_SEGMENTS <= GSO_BYTES_MAX);
        let first_flight = loopback.then(|| u64::from(self.mtu_for_loopback()) * LOOPBACK_INITIAL_DATAGRAMS);
        self.set_congestion(&mut config, first_flight);
        config
    }

    /// The largest UDP payload that the endpoint must be able to receive.
    pub(super) fn payload_max(&self) -> u16 {
        self.mtu_max.max(self.loopback_mtu).clamp(MTU_MIN, 65_527)
    }

    fn mtu_for_loopback(&self) -> u16 {
        self.loopback_mtu.max(self.mtu_max).max(MTU_MIN)
    }

    fn set_congestion(&self, config: &mut TransportConfig, first_flight_bytes: Option<u64>) {
        match self.congestion {
            Congestion::Cubic => {
                let mut cubic = CubicConfig::default();
                if let Some(bytes) = first_flight_bytes {
                    cubic.initial_window(bytes);
                }
                config.congestion_controller_factory(Arc::new(cubic));
            }
            Congestion::NewReno => {
                let mut newreno = NewRenoConfig::default();
                if let Some(bytes) = first_flight_bytes {
                    newreno.initial_window(bytes);
                }
                config.congestion_controller_factory(Arc::new(newreno));
            }
            Congestion::Bbr => {
                let mut bbr = BbrConfig::default();
                if let Some(bytes) = first_flight_bytes {
                    bbr.initial_window(bytes);
                }
                config.congestion_controller_factory(Arc::new(bbr));
            }
            Congestion::Bdp => {
                let mut bdp = BdpConfig::default();
                if let Some(bytes) = first_flight_bytes {
                    bdp.initial_window(bytes);
                }
                config.congestion_controller_factory(Arc::new(bdp));
            }
        }
    }
}

/// Whether the address is one of this machine's loopback interface; an IPv4 one may come mapped into IPv6.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
