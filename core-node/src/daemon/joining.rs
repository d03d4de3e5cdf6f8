//! The desk where devices join: the token's rules decide, and the catalog uses the token and adds the device at once.

use std::pin::Pin;
use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::id::PublicKey;
use headwater_protocol::name::NamePattern;
use headwater_protocol::trust::{Certificate, NameGrants, PriorJoin, SecretDigest, TokenGrant, TokenRefusal};
use headwater_protocol::wire::{PeerStatus, Refusal};
use headwater_quic::work;
use headwater_quic::{JoinDesk, JoinReply, JoinRequest};

use crate::catalog::{DeviceRecord, DeviceState, RedeemError, TokenRecord, UnixMs};
use crate::control::revoked;
use crate::core::Core;
use crate::ingest::catalog_refusal;

/// Admits devices to a core.
pub(super) struct Desk {
    core: Arc<Core>,
}

impl Desk {
    /// The desk of `core`.
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl JoinDesk for Desk {
    fn admit<'a>(
        &'a self,
        request: JoinRequest,
    ) -> Pin<Box<dyn Future<Output = Result<JoinReply, Refusal>> + Send + 'a>> {
        let core = self.core.clone();
        Box::pin(async move {
            let remote = request.remote;
            let name = request.name.clone();
            let decided = work::spawn_blocking(move || decide(&core, &request)).await;
            let answer = decided.unwrap_or_else(|error| {
                tracing::error!(%error, "joining broke off");
                Err(CodedError::new(&codes::INTERNAL, "the core made a mistake while it let the device join").refusal())
            });
            match &answer {
                Ok(reply) => tracing::info!(device = reply.name, %remote, "joined"),
                Err(refusal) => {
                    tracing::info!(device = name, %remote, code = refusal.code, reason = refusal.message, "may not join");
                    self.core.metrics.error(&refusal.code);
                    self.core.journal.note(&refusal.code, &refusal.message, &name);
                }
            }
            answer
        })
    }
}

fn decide(core: &Core, request: &JoinRequest) -> Result<JoinReply, Refusal> {
    let catalog = |error| catalog_refusal(&error);
    let token = core.catalog.token(&request.secret.0).map_err(catalog)?.ok_or_else(unknown_token)?;
    let known = core.catalog.device(&request.key).map_err(catalog)?;
    let named = core.catalog.device_named(&request.name).map_err(catalog)?;
    let prior = prior(known.as_ref(), named.as_ref(), &token, request);
    if token.role.is_shared() && token.expires_at <= core.now() {
        // Who joins with such a token joins again and again.
        return Err(refused(
            &TokenRefusal::Expired { ago_s: (core.now().0 - token.expires_at.0) / 1000 },
            &request.name,
        ));
    }
    let admission = grant(&token)
        .decide(unix_s(core.now()), &request.name, prior)
        .map_err(|refusal| refused(&refusal, &request.name))?;
    let certificate = core.issue_certificate(&request.key, &request.name).map_err(|error| {
        tracing::error!(error = crate::ingest::error_chain(&error), "a certificate can't be issued");
        CodedError::new(&codes::INTERNAL, "the core could not issue a certificate").refusal()
    })?;
    let reply = JoinReply {
        certificate,
        name: request.name.clone(),
        labels: admission.labels.clone(),
        addresses: core.config.addresses.clone(),
    };
    if !admission.consumes_use {
        // Its first answer was lost; everything is written down already.
        return Ok(reply);
    }
    let texts = |patterns: &[NamePattern]| patterns.iter().map(ToString::to_string).collect();
    let device = DeviceRecord {
        key: request.key,
        name: request.name.clone(),
        labels: admission.labels,
        role: admission.role,
        state: DeviceState::Active,
        write_patterns: texts(&admission.names.write),
        read_patterns: texts(&admission.names.read),
        nonces: Vec::new(),
        certificate_expires_at: certificate_end(&reply.certificate),
        joined_at: core.now(),
        last_seen_at: None,
        status: PeerStatus::default(),
    };
    core.catalog.redeem_token(&request.secret.0, core.now(), &device).map_err(|error| match error {
        RedeemError::Unknown => unknown_token(),
        RedeemError::Expired { .. } => refused(&TokenRefusal::Expired { ago_s: 0 }, &request.name),
        RedeemError::UsedUp => refused(&TokenRefusal::UsedUp, &request.name),
        RedeemError::NameTaken(name) => refused(&TokenRefusal::NameTaken(name), &request.name),
        RedeemError::Revoked => refused(&TokenRefusal::DeviceRevoked, &request.name),
        RedeemError::Catalog(error) => catalog_refusal(&error),
    })?;
    Ok(reply)
}

/// When a certificate that this core issued ends.
pub(crate) fn certificate_end(certificate: &[u8]) -> UnixMs {
    let end_s = Certificate::parse(certificate).map_or(0, |parsed| parsed.not_after_s);
    UnixMs(u64::try_from(end_s).unwrap_or(0).saturating_mul(1000))
}

/// `now` in seconds, as certificates and tokens count.
pub(crate) fn unix_s(now: UnixMs) -> i64 {
    i64::try_from(now.0 / 1000).unwrap_or(i64::MAX)
}

fn prior(
    known: Option<&DeviceRecord>,
    named: Option<&DeviceRecord>,
    token: &TokenRecord,
    request: &JoinRequest,
) -> PriorJoin {
    match (known, named) {
        (Some(device), _) if matches!(device.state, DeviceState::Revoked(_)) => PriorJoin::Revoked,
        // The token is not kept with the device; what it granted is, and a device that joined since it was made and has
        // had no session yet is one whose answer was lost.
        (Some(device), _) if device.name == request.name => {
            let lost = device.nonces.is_empty() && device.joined_at >= token.created_at;
            if lost { PriorJoin::SameKeyAndToken } else { PriorJoin::KeyKnown }
        }
        (Some(_), _) => PriorJoin::KeyKnown,
        (None, Some(other)) if active_other(other, &request.key) => PriorJoin::NameTaken,
        (None, _) => PriorJoin::None,
    }
}

fn active_other(device: &DeviceRecord, key: &PublicKey) -> bool {
    device.state == DeviceState::Active && device.key != *key
}

fn grant(token: &TokenRecord) -> TokenGrant {
    let patterns = |texts: &[String]| -> Vec<NamePattern> {
        texts.iter().filter_map(|text| NamePattern::new(text.as_str()).ok()).collect()
    };
    TokenGrant {
        secret: SecretDigest(token.secret_hash),
        created_s: unix_s(token.created_at),
        lifetime_s: Some(token.expires_at.0.saturating_sub(token.created_at.0) / 1000),
        uses_left: Some(token.uses_left),
        revoked: false,
        role: token.role,
        labels: token.labels.clone(),
        names: NameGrants { read: patterns(&token.read_patterns), write: patterns(&token.write_patterns) },
        device_names: patterns(&token.names),
    }
}

fn unknown_token() -> Refusal {
    CodedError::new(&codes::TOKEN_USED_UP, "this core knows no such token; it was revoked, or is long used up")
        .refusal()
}

fn refused(refusal: &TokenRefusal, name: &str) -> Refusal {
    let message = refusal.to_string();
    match refusal {
        TokenRefusal::Revoked | TokenRefusal::UsedUp => CodedError::new(&codes::TOKEN_USED_UP, message),
        TokenRefusal::Expired { .. } => CodedError::new(&codes::TOKEN_EXPIRED, message),
        TokenRefusal::Name(_) | TokenRefusal::NameNotAllowed { .. } | TokenRefusal::NameTaken(_) => {
            CodedError::new(&codes::TOKEN_NAME_NOT_ALLOWED, message)
        }
        TokenRefusal::KeyKnown => CodedError::new(&codes::ALREADY_JOINED, message),
        TokenRefusal::DeviceRevoked => revoked(name),
    }
    .refusal()
}
