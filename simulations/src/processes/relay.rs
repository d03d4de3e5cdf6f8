//! A link that can be held: a relay of UDP datagrams between one device and its core, which stops after so many bytes.
//!
//! What comes while it is held is lost, as on a cut link, and QUIC sends it again once the link is back. So a test can do
//! something at an exact point of a transfer, however fast the machine is. Or it forgets one flow and carries the next.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait_for;

/// Longest wait for a datagram before a look at whether the relay shall end.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// What the threads of a relay share.
#[derive(Debug, Default)]
struct State {
    bytes_up: AtomicU64,
    hold_after_bytes: AtomicU64,
    held: AtomicBool,
    /// Whether only the flow that reaches the limit stops, and which one that was.
    one_flow: bool,
    dead: Mutex<Option<SocketAddr>>,
    ended: AtomicBool,
}

/// A relay in front of a core. It serves one socket of one device at a time, and ends with this value.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// A relay to `core` that holds once the device has sent `hold_after_bytes`.
    pub fn start(core: SocketAddr, hold_after_bytes: u64) -> Self {
        Self::with(core, State { hold_after_bytes: hold_after_bytes.into(), ..State::default() })
    }

    /// A relay that then carries nothing more of this one socket of the device, and all of others: as a network does that
    /// has forgotten a flow.
    pub fn forgetting(core: SocketAddr, after_bytes: u64) -> Self {
        Self::with(core, State { hold_after_bytes: after_bytes.into(), one_flow: true, ..State::default() })
    }

    fn with(core: SocketAddr, state: State) -> Self {
        let near = UdpSocket::bind((core.ip(), 0)).expect("a socket");
        let far = UdpSocket::bind((core.ip(), 0)).expect("a socket");
        far.connect(core).expect("an address");
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(LOOK_EVERY)).expect("a timeout can be set");
        }
        let address = near.local_addr().expect("bound");
        let state = Arc::new(state);
        let device = Arc::new(Mutex::new(None));
        let (near, far) = (Arc::new(near), Arc::new(far));
        let up = {
            let (near, far, state, device) =
                (Arc::clone(&near), Arc::clone(&far), Arc::clone(&state), Arc::clone(&device));
            std::thread::spawn(move || {
                carry(&near, &state, |datagram, from| {
                    let mut dead = locked(&state.dead);
                    if *dead == Some(from) {
                        return;
                    }
                    *locked(&device) = Some(from);
                    let sent = state.bytes_up.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                    if sent >= state.hold_after_bytes.load(Ordering::Relaxed) {
                        if !state.one_flow {
                            state.held.store(true, Ordering::Relaxed);
                            return;
                        } else if dead.is_none() {
                            *dead = Some(from);
                            return;
                        }
                    }
                    // A core that is down is a cut link too.
                    let _ = far.send(datagram);
                });
            })
        };
        let down = {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                carry(&far, &state, |datagram, _| {
                    let device = *locked(&device);
                    let is_held = state.held.load(Ordering::Relaxed) || device == *locked(&state.dead);
                    if let Some(device) = device.filter(|_| !is_held) {
                        // A device that is gone needs no answer.
                        let _ = near.send_to(datagram, device);
                    }
                });
            })
        };
        Self { address, state, threads: vec![up, down] }
    }

    /// Where the device has to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the link is held.
    #[track_caller]
    pub fn wait_held(&self) {
        wait_for("the link to be held", || self.state.held.load(Ordering::Relaxed).then_some(()));
    }

    /// Lets everything pass from now on.
    pub fn release(&self) {
        self.state.hold_after_bytes.store(u64::MAX, Ordering::Relaxed);
        self.state.held.store(false, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn carry(socket: &UdpSocket, state: &State, mut pass: impl FnMut(&[u8], SocketAddr)) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while !state.ended.load(Ordering::Relaxed) {
        // A timeout, or word that nobody listens at the other end: either way the next datagram is waited for.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            pass(&buffer[..length], from);
        }
    }
}
