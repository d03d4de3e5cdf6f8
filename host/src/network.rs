//! Which network interface leads to an address, as the kernel's own routing says: the answer of `ip route get`.
//!
//! The kernel is asked over rtnetlink(7), because only it knows all that counts: metrics, policy rules and routes of all
//! tables.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustix::net::netlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice};

/// Bytes of the header of every rtnetlink message.
const HEADER_BYTES: usize = 16;
/// Bytes of what says which route is meant.
const ROUTE_BYTES: usize = 12;
/// Bytes of the header of an attribute.
const ATTRIBUTE_BYTES: usize = 4;
/// Room for an answer: a route has few attributes.
const ANSWER_BYTES: usize = 4096;
/// How long the kernel may take; it answers before `send` returns.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const IS_REQUEST: u16 = 1;
const DESTINATION: u16 = 1;
const OUTGOING_INTERFACE: u16 = 4;

/// The name of the interface over which `address` is reached; none where there is no way there. Blocks for a moment.
pub fn interface_to(address: IpAddr) -> Option<String> {
    ask(address.to_canonical()).unwrap_or_else(|error| {
        tracing::debug!(%error, "the kernel does not say which interface is used");
        None
    })
}

fn ask(address: IpAddr) -> io::Result<Option<String>> {
    // NETLINK_ROUTE is protocol 0.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WAIT))?;
    rustix::net::sendto(&socket, &question(address), SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; ANSWER_BYTES];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    match interface_in(&answer[..length.min(ANSWER_BYTES)]) {
        Some(index) => Ok(Some(netdevice::index_to_name(&socket, index)?)),
        None => Ok(None),
    }
}

/// Which route leads to this address?
fn question(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
    };
    let attribute_bytes = ATTRIBUTE_BYTES + octets.len();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + ROUTE_BYTES + attribute_bytes);
    bytes.extend(((HEADER_BYTES + ROUTE_BYTES + attribute_bytes) as u32).to_ne_bytes());
    bytes.extend(GET_ROUTE.to_ne_bytes());
    bytes.extend(IS_REQUEST.to_ne_bytes());
    // Number and sender: there is one question on this socket.
    bytes.extend([0; 8]);
    bytes.extend([family.as_raw() as u8, (octets.len() * 8) as u8]);
    bytes.extend([0; ROUTE_BYTES - 2]);
    bytes.extend((attribute_bytes as u16).to_ne_bytes());
    bytes.extend(DESTINATION.to_ne_bytes());
    bytes.extend(octets);
    bytes
}

/// The number of the interface in an answer; none if there is no such route.
fn interface_in(answer: &[u8]) -> Option<u32> {
    let number = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if number(4)? != NEW_ROUTE {
        return None;
    }
    let mut at = HEADER_BYTES + ROUTE_BYTES;
    loop {
        let (length, kind) = (usize::from(number(at)?), number(at + 2)?);
        if length < ATTRIBUTE_BYTES {
            return None;
        }
        if kind == OUTGOING_INTERFACE {
            return Some(u32::from_ne_bytes(answer.get(at + ATTRIBUTE_BYTES..at + 8)?.try_into().ok()?));
        }
        // Attributes begin at multiples of four.
        at += length.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn the_machine_itself_is_reached_over_loopback() {
        let found = interface_to(Ipv4Addr::LOCALHOST.into());
        let Some(name) = found else {
            // A sandbox without rtnetlink.
            assert!(ask(Ipv4Addr::LOCALHOST.into()).is_err());
            return;
        };
        assert_eq!(name, "lo");
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
        assert_eq!(interface_to(mapped).as_deref(), Some("lo"));
    }

    #[test]
    fn what_is_no_answer_names_no_interface() {
        let mut answer = question(Ipv6Addr::LOCALHOST.into());
        assert_eq!(interface_in(&answer), None, "a question is no answer");
        answer[4..6].copy_from_slice(&NEW_ROUTE.to_ne_bytes());
        assert_eq!(interface_in(&answer), None, "it names no interface");
        answer.extend(8u16.to_ne_bytes());
        answer.extend(OUTGOING_INTERFACE.to_ne_bytes());
        answer.extend(7u32.to_ne_bytes());
        assert_eq!(interface_in(&answer), Some(7));
        for length in 0..answer.len() {
            assert_eq!(interface_in(&answer[..length]), None, "cut to {length}");
        }
        let at = HEADER_BYTES + ROUTE_BYTES;
        answer[at..at + 2].copy_from_slice(&[0, 0]);
        assert_eq!(interface_in(&answer), None, "an attribute without a length never ends");
    }
}
