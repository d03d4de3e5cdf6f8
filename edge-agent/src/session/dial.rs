//! Reaching the core: dialling its addresses in turn, saying hello, and keeping what the welcome brought.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::name::check_device_name;
use headwater_protocol::trust::{Token, TokenError};
use headwater_protocol::wire::{Hello, Message, PROTOCOL_REVISION, PeerStatus, Welcome};
use headwater_quic::endpoint::close;
use headwater_quic::session::{Session, SessionOptions, Side};
use headwater_quic::work;
use headwater_quic::{
    ClientOptions, ConnectError, ControlStream, FrameError, JoinError, TransportOptions, connect, resolve,
};

use super::link::{Fetches, Link};
use crate::agent::Agent;
use crate::catalog::EventLevel;
use crate::device::{Card, Device};

/// Oldest revision of the protocol that this release speaks.
const REVISION_MIN: u32 = 1;
/// How long the core may take to welcome a device.
const WELCOME_WAIT: Duration = Duration::from_secs(30);
/// How long one address has before the next is tried beside it: longer than a handshake takes on most links.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_secs(2);
/// Bytes under way and not acknowledged on the session: a device has little memory.
const SEND_WINDOW_BYTES: u64 = 8 << 20;
/// Bytes that the core may send ahead of what the device has taken.
const RECEIVE_WINDOW_BYTES: u32 = 12 << 20;

/// Joins a core and keeps the identity that it gives.
pub async fn join(
    agent: &Arc<Agent>,
    token: &str,
    core: Option<&str>,
    name: Option<&str>,
) -> Result<Arc<Device>, CodedError> {
    let mut token = Token::parse(token).map_err(|error| token_error(&error))?;
    if let Some(core) = core {
        token =
            Token::new(vec![core.to_owned()], token.authority, *token.secret()).map_err(|error| token_error(&error))?;
    }
    if let Some(device) = agent.device() {
        let message = format!(
            "this device is `{}` of the core at {} already",
            device.card.name,
            device.card.addresses.join(", ")
        );
        return Err(CodedError::new(&codes::ALREADY_JOINED, message));
    }
    let name = match name {
        Some(name) => name.to_owned(),
        None => host_name(),
    };
    check_device_name(&name).map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))?;
    let key = Device::joining_key(agent.data())?;
    let options = client_options(agent).await?;
    let joined = headwater_quic::join(&token, &name, &key, &options).await.map_err(join_error)?;
    let mut addresses = joined.addresses;
    if let Some(core) = core.filter(|core| !addresses.iter().any(|known| known == core)) {
        // The address that was given is the one that is known to lead there from here.
        addresses.insert(0, core.to_owned());
    }
    let card = Card { name: joined.name, labels: joined.labels, addresses };
    let device = Device::joined(agent.data(), joined.identity, card)?;
    agent.set_device(Some(device));
    let device = agent.joined()?;
    agent.note(
        EventLevel::Info,
        "",
        "",
        format!("joined the core at {} as `{}`", device.card.addresses.join(", "), device.card.name),
    );
    Ok(device)
}

/// A session that stands.
pub struct Dialled {
    /// The session.
    pub link: Link,
    /// The nonce that it gave, to be kept once this is the session to go on with.
    pub nonce: Vec<u8>,
}

/// Opens a session with the core: dials, says hello with the nonce `shown`, keeps labels and certificate, and starts the
/// session.
pub async fn dial(
    agent: &Arc<Agent>,
    shown: Vec<u8>,
    status: PeerStatus,
    fetches: Arc<dyn Fetches>,
) -> Result<Dialled, CodedError> {
    let device = agent.joined()?;
    let settings = agent.settings();
    let options = client_options(agent).await?;
    let addresses = settings.core.addresses_or(&device.card.addresses);
    let connection = reach(agent, &device, addresses, &options).await?;
    let mut control = ControlStream::open(&connection).await.map_err(|error| frame_error(&error))?;
    let hello = Hello { revision_min: REVISION_MIN, revision_max: PROTOCOL_REVISION, nonce: shown, status };
    let welcome = tokio::time::timeout(WELCOME_WAIT, greet(&mut control, hello))
        .await
        .map_err(|_| CodedError::new(&codes::CORE_UNREACHABLE, "the core took the connection but does not answer"))?;
    let welcome = match welcome {
        Ok(welcome) => welcome,
        Err(error) => {
            connection.close(close::DONE, b"");
            return Err(error);
        }
    };
    let nonce = welcome.nonce.clone();
    keep(agent, &device, welcome)?;
    let options = SessionOptions {
        loaders: agent.loaders(),
        send_window_bytes: SEND_WINDOW_BYTES,
        account: Some(Arc::clone(agent.gate().account().sent())),
        ..SessionOptions::default()
    };
    let (handle, events) = Session::start(connection.clone(), control, Side::Dialler, options);
    let link = Link::start(connection, handle, events, fetches);
    let told = agent.gate().down_cap();
    if told.is_some() {
        // Before anything is asked for.
        link.send_down_cap(told).await?;
    }
    work::spawn(end_when_closed(Arc::clone(agent), link.clone()));
    work::spawn(tell_down_cap(Arc::clone(agent), link.clone(), told));
    Ok(Dialled { link, nonce })
}

/// Ends the session when nothing may go over the link any more.
async fn end_when_closed(agent: Arc<Agent>, link: Link) {
    tokio::select! {
        biased;
        _ = link.ended() => {}
        () = agent.gate().closes() => link.close("the device may send nothing more now: its schedule or its budget says so"),
    }
}

/// Tells the core each cap of what comes, after the one that it was told.
async fn tell_down_cap(agent: Arc<Agent>, link: Link, mut told: Option<u64>) {
    loop {
        let cap = tokio::select! {
            biased;
            _ = link.ended() => return,
            cap = agent.gate().down_cap_other_than(told) => cap,
        };
        if link.send_down_cap(cap).await.is_err() {
            return;
        }
        told = cap;
    }
}

async fn greet(control: &mut ControlStream, hello: Hello) -> Result<Welcome, CodedError> {
    control.send(&Message::Hello(hello)).await.map_err(|error| frame_error(&error))?;
    match control.expect().await.map_err(|error| frame_error(&error))? {
        Message::Welcome(welcome) if (REVISION_MIN..=PROTOCOL_REVISION).contains(&welcome.revision) => Ok(welcome),
        Message::Welcome(welcome) => Err(CodedError::new(
            &codes::PROTOCOL_TOO_NEW,
            format!(
                "the core wants to speak revision {}, and this release speaks up to {PROTOCOL_REVISION}",
                welcome.revision
            ),
        )),
        Message::Refused { refusal, .. } => Err(refusal.into()),
        _ => Err(CodedError::new(&codes::BAD_FRAME, "the core answered the greeting with something else")),
    }
}

/// Keeps what the welcome brought, but for the nonce: only the session that the device goes on with has a say in that.
fn keep(agent: &Agent, device: &Device, welcome: Welcome) -> Result<(), CodedError> {
    let mut changed = device.clone();
    if !welcome.certificate.is_empty() {
        match device.identity.renewed(welcome.certificate) {
            Ok(identity) => {
                changed.identity = identity;
                changed.save_identity()?;
                agent.note(EventLevel::Info, "", "", "the core renewed this device's certificate");
            }
            Err(error) => {
                let text = format!("the renewed certificate can't be used, the old one stays: {error}");
                agent.note(EventLevel::Warn, codes::IDENTITY_UNUSABLE.code, "", text);
            }
        }
    }
    changed.card.name = welcome.name;
    changed.card.labels = welcome.labels;
    if changed.card != device.card {
        changed.save_card()?;
    }
    if changed.card != device.card || changed.identity.certificate() != device.identity.certificate() {
        agent.set_device(Some(changed));
    }
    Ok(())
}

/// Dials the addresses in turn until one answers as the core that this device joined. Names are resolved anew each time: a
/// core that has moved is found where its name leads now.
async fn reach(
    agent: &Arc<Agent>,
    device: &Device,
    addresses: &[String],
    options: &ClientOptions,
) -> Result<quinn::Connection, CodedError> {
    let mut tries: Vec<BoxFuture<'_, _>> = Vec::new();
    for address in addresses {
        tries.push(Box::pin(reach_named(agent, device, address, options)));
    }
    let failed = match first_of(tries, NEXT_ADDRESS_AFTER).await {
        Ok(connection) => return Ok(connection),
        Err(failed) => failed.into_iter().flatten(),
    };
    let (mut tried, mut untrusted, mut closed) = (Vec::new(), None, None);
    for error in failed {
        match error {
            Unreached::Silent(text) => tried.push(text),
            Unreached::Untrusted(error) => untrusted = Some(error),
            Unreached::Closed(error) => closed = Some(error),
        }
    }
    Err(match untrusted.or_else(|| closed.filter(|_| tried.is_empty())) {
        Some(error) => error,
        None => CodedError::new(&codes::CORE_UNREACHABLE, format!("the core can't be reached: {}", tried.join("; "))),
    })
}

/// Dials what `address` stands for now, in turn.
async fn reach_named(
    agent: &Arc<Agent>,
    device: &Device,
    address: &str,
    options: &ClientOptions,
) -> Result<quinn::Connection, Vec<Unreached>> {
    let candidates = resolve(address).await.map_err(|error| vec![Unreached::Silent(error.to_string())])?;
    let mut tries: Vec<BoxFuture<'_, _>> = Vec::new();
    for candidate in candidates {
        tries.push(Box::pin(reach_at(agent, device, candidate, options)));
    }
    first_of(tries, NEXT_ADDRESS_AFTER).await
}

async fn reach_at(
    agent: &Arc<Agent>,
    device: &Device,
    address: SocketAddr,
    options: &ClientOptions,
) -> Result<quinn::Connection, Unreached> {
    // Another interface may lead there, with rules of its own.
    agent.gate().aim(address.ip());
    crate::link::admit(agent).await.map_err(Unreached::Closed)?;
    let connected = connect(address, &device.identity, options).await;
    if connected.is_ok() {
        // Another address may have been tried meanwhile.
        agent.gate().aim(address.ip());
    }
    connected.map_err(|error| {
        let text = error.to_string();
        match error {
            ConnectError::Untrusted { source, .. } => {
                Unreached::Untrusted(CodedError::new(&codes::PEER_UNTRUSTED, text).with_source(source))
            }
            _ => Unreached::Silent(text),
        }
    })
}

/// Why an address is not the one.
enum Unreached {
    /// It does not lead anywhere.
    Silent(String),
    /// Somebody else answers there.
    Untrusted(CodedError),
    /// Nothing may go there now.
    Closed(CodedError),
}

/// Tries one after the other, each as soon as the one before has failed or has taken that long, until one succeeds. Those
/// that were begun go on beside it. As in RFC 8305, so that an address where nobody is keeps nobody waiting.
async fn first_of<T, E>(tries: Vec<BoxFuture<'_, Result<T, E>>>, after: Duration) -> Result<T, Vec<E>> {
    let mut tries = tries.into_iter();
    let (mut running, mut failed) = (FuturesUnordered::new(), Vec::new());
    running.extend(tries.next());
    loop {
        tokio::select! {
            biased;
            outcome = running.next(), if !running.is_empty() => match outcome {
                Some(Ok(found)) => return Ok(found),
                Some(Err(error)) => failed.push(error),
                None => {}
            },
            () = tokio::time::sleep(after), if tries.len() > 0 => {}
            else => return Err(failed),
        }
        running.extend(tries.next());
    }
}

/// How to dial, where anything may go over the link.
async fn client_options(agent: &Arc<Agent>) -> Result<ClientOptions, CodedError> {
    let settings = agent.settings();
    crate::link::admit(agent).await?;
    let base = ClientOptions::default();
    let mut transport = TransportOptions {
        send_window_bytes: SEND_WINDOW_BYTES,
        connection_window_bytes: RECEIVE_WINDOW_BYTES,
        ..base.transport
    };
    if let Some(name) = &settings.core.congestion {
        transport.congestion = name.parse().map_err(|error: headwater_quic::endpoint::ParseCongestionError| {
            CodedError::new(&codes::CONFIG_INVALID, format!("`core.congestion`: {error}"))
        })?;
    }
    if let Some(mtu) = settings.core.mtu_max {
        transport.mtu_max = mtu;
    }
    transport.finds_mtu = settings.link.check_in.is_none() || agent.unsent_since().is_some();
    Ok(ClientOptions { transport, meter: Some(Arc::clone(agent.gate().meter())), ..base })
}

/// A broken exchange as an error: the core's own words where it closed the connection on purpose.
pub(super) fn frame_error(error: &FrameError) -> CodedError {
    match error.connection_error() {
        Some(cause) => connection_error(cause),
        None => CodedError::new(&codes::SESSION_ENDED, format!("the exchange with the core broke: {error}")),
    }
}

/// The end of a connection as an error.
pub(super) fn connection_error(error: &quinn::ConnectionError) -> CodedError {
    let code = match close::said(error) {
        Some((close::REVOKED, _)) => &codes::DEVICE_REVOKED,
        Some((close::UNKNOWN_PEER, _)) => &codes::UNKNOWN_DEVICE,
        Some((close::PROTOCOL, _)) => &codes::BAD_FRAME,
        _ => &codes::SESSION_ENDED,
    };
    CodedError::new(code, format!("the session with the core ended: {}", close::describe(error)))
}

fn token_error(error: &TokenError) -> CodedError {
    let code = match error {
        TokenError::FromTheFuture(_) => &codes::PROTOCOL_TOO_NEW,
        _ => &codes::TOKEN_MISTYPED,
    };
    CodedError::new(code, error.to_string())
}

fn join_error(error: JoinError) -> CodedError {
    match error {
        JoinError::Refused(refusal) => refusal.into(),
        JoinError::OtherCore { .. } => {
            CodedError::new(&codes::TOKEN_OF_ANOTHER_CORE, error.to_string()).with_source(error)
        }
        JoinError::Unreachable(_) | JoinError::Silent(_) => {
            CodedError::new(&codes::CORE_UNREACHABLE, error.to_string())
        }
        JoinError::Exchange(ref broken) => {
            let error = frame_error(broken);
            if error.is(&codes::SESSION_ENDED) {
                CodedError::new(&codes::CORE_UNREACHABLE, error.message)
            } else {
                error
            }
        }
        JoinError::Answer => CodedError::new(&codes::BAD_FRAME, error.to_string()),
        JoinError::Identity(_) => CodedError::new(&codes::IDENTITY_UNUSABLE, error.to_string()).with_source(error),
    }
}

/// The machine's name, as far as it can be a device's.
fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.split('.').next().unwrap_or_default().chars().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// What a try does: waits for so many seconds, and then succeeds or fails.
    async fn a_try(seconds: u64, succeeds: bool) -> Result<u64, u64> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        if succeeds { Ok(seconds) } else { Err(seconds) }
    }

    async fn outcome(tries: &[(u64, bool)]) -> (Result<u64, Vec<u64>>, u64) {
        let began = tokio::time::Instant::now();
        let tries = tries.iter().map(|&(seconds, succeeds)| a_try(seconds, succeeds).boxed());
        (first_of(tries.collect(), Duration::from_secs(2)).await, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_where_nobody_is_keeps_nobody_waiting() {
        assert_eq!(outcome(&[(1, true), (0, true)]).await, (Ok(1), 1), "the first has its time");
        assert_eq!(outcome(&[(20, false), (1, true)]).await, (Ok(1), 3));
        assert_eq!(outcome(&[(3, true), (20, false), (20, false)]).await, (Ok(3), 3), "who is slow is not given up");
        assert_eq!(outcome(&[(0, false), (0, false), (1, true)]).await, (Ok(1), 1), "the next follows on a failure");
        assert_eq!(outcome(&[(20, false), (1, false)]).await, (Err(vec![1, 20]), 20));
        assert_eq!(outcome(&[]).await, (Err(vec![]), 0));
    }
}
