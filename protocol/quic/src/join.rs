//! Joining: a device shows a token's secret and its new public key, and gets a certificate.
//!
//! The token pins the authority by fingerprint, so the secret goes to nobody else. The device signs the exporter of this
//! very TLS session with its key (RFC 8446, section 7.5), so a key can't be joined by one who does not hold it.
//!
//! ```text
//! device  -> core    JoinMessage::Request { secret, name, key, proof }
//! core    -> device  JoinMessage::Admitted(JoinReply)  or  JoinMessage::Refused(Refusal)
//! ```

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use headwater_protocol::id::PublicKey;
use headwater_protocol::name::Labels;
use headwater_protocol::trust::{Fingerprint, SecretDigest, Signer, Token, verify};
pub use headwater_protocol::wire::{JOIN_BYTES_MAX, JoinReply};
use headwater_protocol::wire::{JoinMessage, Refusal};
use quinn::Connection;
use rustls::pki_types::CertificateDer;

use crate::endpoint::{ClientOptions, ConnectError, ResolveError, close, dial_to_join, resolve};
use crate::framing::{ControlReceiver, ControlSender, ControlStream, FrameError};
use crate::identity::{Identity, IdentityError, IdentityKey};

/// How long a core waits for a request, and a device for the answer.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

const EXPORTER_LABEL: &[u8] = b"EXPORTER-headwater-join-v1";
const PROOF_DOMAIN: &[u8] = b"headwater join v1\0";

/// What a device asks, as the desk sees it: the secret only as its digest, and the key proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// Digest of the token's secret: look the token up by it.
    pub secret: SecretDigest,
    /// The name that the device wants.
    pub name: String,
    /// The key that it proved to hold.
    pub key: PublicKey,
    /// Where it asks from.
    pub remote: SocketAddr,
}

/// The one who decides who may join, and writes it down before answering.
pub trait JoinDesk: Send + Sync {
    /// Admits or refuses. The admission must be durable when this resolves. A device whose answer was lost asks again
    /// with the same key and name, and must get an answer again.
    fn admit<'a>(
        &'a self,
        request: JoinRequest,
    ) -> Pin<Box<dyn Future<Output = Result<JoinReply, Refusal>> + Send + 'a>>;
}

/// A device that has joined. Its identity is not saved yet.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Its identity: key, certificate, and authority.
    pub identity: Identity,
    /// The name under which the core knows it.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Where the core listens, most preferred first.
    pub addresses: Vec<String>,
}

/// Why a device could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No address of the token could be reached.
    #[error("no address in the token could be reached: {}", summary(.0))]
    Unreachable(Vec<Unreachable>),
    /// Somebody answered who is not the token's core: it has moved, or somebody intercepts.
    #[error("{address} is not the core that made this token")]
    OtherCore {
        /// Which address answered.
        address: String,
        /// What does not fit.
        #[source]
        source: ConnectError,
    },
    /// The core refused.
    #[error("the core refused: {}", .0.message)]
    Refused(Refusal),
    /// The core did not answer in time.
    #[error("{0} did not answer the request to join")]
    Silent(String),
    /// The exchange broke.
    #[error("the exchange with the core broke")]
    Exchange(#[source] FrameError),
    /// The core's answer makes no sense.
    #[error("the core answered with something else than a certificate")]
    Answer,
    /// The core's certificate for this device does not serve.
    #[error("the certificate that the core gave can't be used")]
    Identity(#[source] IdentityError),
}

/// An address that could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// It is a name that can't be resolved.
    #[error(transparent)]
    Name(#[from] ResolveError),
    /// Nobody answered, or the handshake failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

fn summary(tried: &[Unreachable]) -> String {
    tried.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Joins the core that the token names, with a key that the caller has already saved, so that a lost answer can be asked
/// for again. The addresses are tried in their order.
pub async fn join(token: &Token, name: &str, key: &IdentityKey, options: &ClientOptions) -> Result<Joined, JoinError> {
    let (address, connection) = reach(token, options).await?;
    let outcome = tokio::time::timeout(JOIN_TIMEOUT, exchange(&connection, token, name, key)).await;
    connection.close(close::DONE, b"");
    let reply = outcome.map_err(|_| JoinError::Silent(address))??;
    let authority = authority(&connection, token.authority).ok_or(JoinError::Answer)?;
    let identity = Identity::new(key.clone(), reply.certificate, authority).map_err(JoinError::Identity)?;
    let addresses = if reply.addresses.is_empty() { token.addresses.clone() } else { reply.addresses };
    Ok(Joined { identity, name: reply.name, labels: reply.labels, addresses })
}

async fn reach(token: &Token, options: &ClientOptions) -> Result<(String, Connection), JoinError> {
    let mut unreachable = Vec::new();
    let mut other_core = None;
    for address in &token.addresses {
        let resolved = match resolve(address).await {
            Ok(resolved) => resolved,
            Err(error) => {
                unreachable.push(error.into());
                continue;
            }
        };
        for candidate in resolved {
            match dial_to_join(candidate, token.authority, options).await {
                Ok(connection) => return Ok((address.clone(), connection)),
                Err(source @ ConnectError::Untrusted { .. }) => {
                    other_core = Some(JoinError::OtherCore { address: address.clone(), source });
                }
                Err(error) => unreachable.push(error.into()),
            }
        }
    }
    Err(other_core.unwrap_or(JoinError::Unreachable(unreachable)))
}

async fn exchange(
    connection: &Connection,
    token: &Token,
    name: &str,
    key: &IdentityKey,
) -> Result<JoinReply, JoinError> {
    let proof = key.sign(&proof_statement(connection, name));
    let request =
        JoinMessage::Request { secret: token.secret().to_vec(), name: name.to_owned(), key: key.public_key(), proof };
    let (mut sender, mut receiver) = ControlStream::open(connection).await.map_err(JoinError::Exchange)?.split();
    sender.send_frame(&request).await.map_err(JoinError::Exchange)?;
    match receive(&mut receiver).await.map_err(JoinError::Exchange)? {
        Some(JoinMessage::Admitted(reply)) => Ok(reply),
        Some(JoinMessage::Refused(refusal)) => Err(JoinError::Refused(refusal)),
        Some(JoinMessage::Request { .. }) | None => Err(JoinError::Answer),
    }
}

async fn receive(receiver: &mut ControlReceiver) -> Result<Option<JoinMessage>, FrameError> {
    let message: Option<JoinMessage> = receiver.recv_frame().await?;
    if let Some(message) = &message {
        message.check().map_err(FrameError::Invalid)?;
    }
    Ok(message)
}

/// The certificate of the pinned authority, from the chain that the handshake has checked.
fn authority(connection: &Connection, pinned: Fingerprint) -> Option<Vec<u8>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.iter().find(|certificate| Fingerprint::of(certificate) == pinned).map(|certificate| certificate.to_vec())
}

fn proof_statement(connection: &Connection, name: &str) -> Vec<u8> {
    let mut session = [0u8; 32];
    connection
        .export_keying_material(&mut session, EXPORTER_LABEL, b"")
        .expect("32 bytes can be exported from any TLS 1.3 session");
    let mut statement = PROOF_DOMAIN.to_vec();
    statement.extend_from_slice(&session);
    statement.extend_from_slice(name.as_bytes());
    statement
}

/// Why nothing came of one who wanted to join. None of these is the core's fault; a refusal is no error.
#[derive(Debug, thiserror::Error)]
pub enum ServeJoinError {
    /// It sent nothing in time.
    #[error("{0} connected to join, but did not ask in time")]
    Silent(SocketAddr),
    /// The exchange broke.
    #[error("the exchange with {remote}, who wanted to join, broke")]
    Exchange {
        /// Where from.
        remote: SocketAddr,
        /// What broke.
        #[source]
        source: FrameError,
    },
    /// It sent something else than a request.
    #[error("{0} sent something else than a request to join")]
    NoRequest(SocketAddr),
    /// It does not hold the key that it wants a certificate for.
    #[error("{0} asked for a certificate for a key that it does not hold")]
    Proof(SocketAddr),
}

/// Serves one who wants to join. What it was answered is returned for the log.
pub async fn serve_join(
    connection: Connection,
    desk: &dyn JoinDesk,
) -> Result<Result<JoinReply, Refusal>, ServeJoinError> {
    let remote = connection.remote_address();
    let broke = |source| ServeJoinError::Exchange { remote, source };
    let asked = tokio::time::timeout(JOIN_TIMEOUT, receive_request(&connection)).await;
    let asked = asked.unwrap_or(Err(ServeJoinError::Silent(remote)));
    let (request, mut sender) = asked.inspect_err(|error| {
        connection.close(close::PROTOCOL, error.to_string().as_bytes());
    })?;
    let answer = desk.admit(request).await;
    let message = match &answer {
        Ok(reply) => JoinMessage::Admitted(reply.clone()),
        Err(refusal) => JoinMessage::Refused(refusal.clone()),
    };
    sender.send_frame(&message).await.map_err(broke)?;
    // The device closes the connection once it has the answer; one that never does is let go.
    let _ = tokio::time::timeout(JOIN_TIMEOUT, sender.delivered()).await;
    Ok(answer)
}

async fn receive_request(connection: &Connection) -> Result<(JoinRequest, ControlSender), ServeJoinError> {
    let remote = connection.remote_address();
    let broke = |source| ServeJoinError::Exchange { remote, source };
    let (sender, mut receiver) = ControlStream::accept(connection).await.map_err(broke)?.split();
    let Some(JoinMessage::Request { secret, name, key, proof }) = receive(&mut receiver).await.map_err(broke)? else {
        return Err(ServeJoinError::NoRequest(remote));
    };
    verify(&key, &proof_statement(connection, &name), &proof).map_err(|_| ServeJoinError::Proof(remote))?;
    Ok((JoinRequest { secret: SecretDigest::of(&secret), name, key, remote }, sender))
}
