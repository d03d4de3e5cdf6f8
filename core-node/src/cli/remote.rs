//! Asking a core elsewhere: over QUIC, with an identity whose role allows it.
//!
//! An identity is a folder with a key, a certificate and the authority's certificate, as a device has one. `login` gets one
//! with a token; every later command shows the nonce that the last session gave, like a device.

use std::path::Path;
use std::time::Duration;

use headwater_host::control::Pieces;
use headwater_host::durable::{self, PRIVATE_FILE_MODE, PRIVATE_FOLDER_MODE};
use headwater_host::error::{CodedError, codes};
use headwater_host::output::Stdout;
use headwater_protocol::trust::{Token, TokenError};
use headwater_protocol::wire::{CONTROL_FRAME_BYTES_MAX, Hello, Message, PROTOCOL_REVISION, PeerStatus};
use headwater_quic::endpoint::close;
use headwater_quic::{
    ClientOptions, ConnectError, ControlStream, Dialler, FrameError, Identity, IdentityError, IdentityKey, JoinError,
    join, resolve,
};
use quinn::Connection;
use serde_json::Value;

use crate::control::Request;

/// Holds the nonce that the last session gave.
const NONCE_FILE: &str = "nonce";
/// Longest request, in bytes: what a message carries, less what it is packed in.
const REQUEST_BYTES_MAX: usize = CONTROL_FRAME_BYTES_MAX - 1024;
/// How long the end of a session may take to go out.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// The number of the only request of a session.
const REQUEST: u32 = 1;

/// Joins the core of `token` as `name`, and keeps the identity in the folder `identity`.
pub(super) async fn login(
    token: &str,
    name: &str,
    identity: &Path,
    json: bool,
) -> Result<std::process::ExitCode, CodedError> {
    if Identity::exists(identity) {
        return Err(CodedError::new(
            &codes::ALREADY_JOINED,
            format!("`{}` holds an identity already", identity.display()),
        )
        .with_hint("name another place with --identity"));
    }
    let token = Token::parse(token).map_err(|error| match error {
        TokenError::FromTheFuture(_) => CodedError::new(&codes::PROTOCOL_TOO_NEW, error.to_string()),
        _ => CodedError::new(&codes::TOKEN_MISTYPED, error.to_string()),
    })?;
    durable::create_folder(identity, PRIVATE_FOLDER_MODE)
        .map_err(|error| CodedError::io(&codes::WRITE_FAILED, format!("can't make `{}`", identity.display()), error))?;
    let key = IdentityKey::load_or_create(identity).map_err(|error| unusable(identity, error))?;
    let joined = join(&token, name, &key, &ClientOptions::default()).await.map_err(join_failed)?;
    joined.identity.save(identity).map_err(|error| unusable(identity, error))?;
    let core = joined.addresses.first().cloned().unwrap_or_default();
    let said = if json {
        serde_json::json!({ "name": name, "core": core, "identity": identity }).to_string()
    } else {
        format!("`{name}` is known to the core; ask it with --core {core} --identity {}", identity.display())
    };
    std::io::Write::write_fmt(&mut Stdout::default(), format_args!("{said}\n")).map_err(super::output)?;
    Ok(std::process::ExitCode::SUCCESS)
}

/// Asks the core at `core`; `take` gets the parts of its answer.
pub(super) async fn ask(
    core: &str,
    identity_folder: &Path,
    request: &Request,
    take: impl FnMut(Value),
) -> Result<(), CodedError> {
    let identity = Identity::load(identity_folder).map_err(|error| unusable(identity_folder, error))?;
    let (dialler, connection) = reach(core, &identity).await?;
    let answered = converse(&connection, &identity, identity_folder, request, take).await;
    connection.close(close::DONE, b"");
    // The process ends next, and a close that is still here then would leave the core with a session until it times out.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, dialler.wait_closed()).await;
    answered
}

async fn converse(
    connection: &Connection,
    identity: &Identity,
    identity_folder: &Path,
    request: &Request,
    mut take: impl FnMut(Value),
) -> Result<(), CodedError> {
    let mut control = ControlStream::open(connection).await.map_err(lost)?;
    greet(&mut control, identity, identity_folder).await?;
    let body = serde_json::to_string(request).expect("requests are plain data");
    if body.len() > REQUEST_BYTES_MAX {
        return Err(CodedError::new(
            &codes::USAGE,
            format!("a request of {} bytes is too long to be sent", body.len()),
        ));
    }
    control.send(&Message::Control { request: REQUEST, body }).await.map_err(lost)?;
    let mut pieces = Pieces::default();
    let answered = loop {
        match control.expect().await.map_err(lost)? {
            Message::ControlReply { request: REQUEST, body, last } => {
                let Some(mut reply) = pieces.take(&body)? else { continue };
                if !last {
                    take(reply["progress"].take());
                } else if reply.get("failed").is_some() {
                    break Err(serde_json::from_value(reply["failed"].take()).unwrap_or_else(|_| {
                        CodedError::new(&codes::BAD_FRAME, "the core failed and did not say how")
                    }));
                } else {
                    break Ok(());
                }
            }
            Message::Ping(token) => control.send(&Message::Pong(token)).await.map_err(lost)?,
            Message::Refused { refusal, .. } => break Err(refusal.into()),
            _ => {}
        }
    };
    // The core sees the end of the connection either way.
    let _ = control.send(&Message::Goodbye).await;
    answered
}

async fn greet(control: &mut ControlStream, identity: &Identity, folder: &Path) -> Result<(), CodedError> {
    let nonce_file = folder.join(NONCE_FILE);
    let hello = Hello {
        revision_min: PROTOCOL_REVISION,
        revision_max: PROTOCOL_REVISION,
        nonce: std::fs::read(&nonce_file).unwrap_or_default(),
        status: PeerStatus { release: env!("CARGO_PKG_VERSION").to_owned(), ..PeerStatus::default() },
    };
    control.send(&Message::Hello(hello)).await.map_err(lost)?;
    let welcome = match control.expect().await.map_err(lost)? {
        Message::Welcome(welcome) => welcome,
        Message::Refused { refusal, .. } => return Err(refusal.into()),
        _ => return Err(CodedError::new(&codes::BAD_FRAME, "the core did not answer with a welcome")),
    };
    durable::write_atomic(&nonce_file, &welcome.nonce, PRIVATE_FILE_MODE).map_err(|error| {
        CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", nonce_file.display()), error)
    })?;
    if !welcome.certificate.is_empty() {
        let renewed = identity.renewed(welcome.certificate).and_then(|renewed| renewed.save(folder));
        renewed.map_err(|error| unusable(folder, error))?;
    }
    Ok(())
}

async fn reach(core: &str, identity: &Identity) -> Result<(Dialler, Connection), CodedError> {
    let unreachable = |message: String| CodedError::new(&codes::CORE_UNREACHABLE, message);
    let addresses = resolve(core).await.map_err(|error| unreachable(error.to_string()).with_source(error.source))?;
    let mut last = None;
    for address in addresses {
        let dialled = async {
            let dialler = Dialler::bind(address, &ClientOptions::default())?;
            let connection = dialler.connect(address, identity).await?;
            Ok((dialler, connection))
        };
        match dialled.await {
            Ok(reached) => return Ok(reached),
            Err(error @ ConnectError::Untrusted { .. }) => {
                return Err(CodedError::new(&codes::PEER_UNTRUSTED, error.to_string()).with_source(error));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) => unreachable(error.to_string()).with_source(error),
        None => unreachable(format!("`{core}` has no address")),
    })
}

fn join_failed(error: JoinError) -> CodedError {
    match error {
        JoinError::Refused(refusal) => refusal.into(),
        JoinError::Unreachable(_) | JoinError::Silent(_) => {
            CodedError::new(&codes::CORE_UNREACHABLE, error.to_string())
        }
        JoinError::OtherCore { .. } => CodedError::new(&codes::TOKEN_OF_ANOTHER_CORE, error.to_string()),
        JoinError::Exchange(_) | JoinError::Answer => CodedError::new(&codes::SESSION_ENDED, error.to_string()),
        JoinError::Identity(_) => CodedError::new(&codes::IDENTITY_UNUSABLE, error.to_string()),
    }
}

fn lost(error: FrameError) -> CodedError {
    let said = error.connection_error().and_then(close::said);
    match said {
        Some((_, reason)) if !reason.is_empty() => {
            CodedError::new(&codes::SESSION_ENDED, format!("the core ended the session: {reason}"))
        }
        _ => CodedError::new(&codes::SESSION_ENDED, "the session with the core ended").with_source(error),
    }
}

fn unusable(folder: &Path, error: IdentityError) -> CodedError {
    CodedError::new(&codes::IDENTITY_UNUSABLE, format!("the identity in `{}` can't be used", folder.display()))
        .with_hint(
            "get one: `core-node login TOKEN --identity DIR`, with a token of `core-node token create --role ...`",
        )
        .with_source(error)
}
