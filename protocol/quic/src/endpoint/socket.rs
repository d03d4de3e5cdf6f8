//! UDP sockets with buffers that hold what arrives while a task is busy.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

use super::WireMeter;
use super::lane::Lanes;
use super::meter::MeteredSocket;
use crate::work;

/// A socket bound to `address`, with buffers of `buffer_bytes` or the most that the kernel gives.
fn bind(address: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // One socket for both families where the address is the wildcard; harmless elsewhere.
        socket.set_only_v6(false)?;
    }
    // The kernel silently gives less where net.core.rmem_max is lower; a smaller buffer only costs speed.
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket as quinn wants it, counted where there is a meter.
pub(super) fn open(
    address: SocketAddr,
    buffer_bytes: usize,
    meter: Option<&Arc<WireMeter>>,
    lanes: Option<&Arc<Lanes>>,
    payload_max: u16,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let socket = match work::bind(address) {
        Some(socket) => socket?,
        None => TokioRuntime.wrap_udp_socket(bind(address, buffer_bytes)?)?,
    };
    Ok(Arc::new(MeteredSocket::new(socket, meter.cloned(), lanes.cloned(), payload_max)))
}
