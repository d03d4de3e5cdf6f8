//! Tokens and devices.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::name::{Labels, NamePattern, check_label};
use headwater_protocol::trust::{Role, SecretDigest, TOKEN_PATTERNS_MAX, TOKEN_SECRET_BYTES, Token};
use serde_json::json;

use super::handler::{Asker, Emitter, catalog_failed, not_found};
use super::{Answer, DeviceRow, NewToken, TokenCreate, TokenRow};
use crate::catalog::{DeviceRecord, DeviceState, Principal, TokenRecord, UnixMs};
use crate::core::Core;

/// Most devices that one token may let in.
const TOKEN_USES_MAX: u32 = 1_000_000;

pub(super) fn create_token(core: &Arc<Core>, asked: TokenCreate, out: &Emitter) -> Result<(), CodedError> {
    let usage = |message: String| CodedError::new(&codes::USAGE, message);
    if asked.uses == 0 || asked.uses > TOKEN_USES_MAX {
        return Err(usage(format!("a token is for 1 to {TOKEN_USES_MAX} devices")));
    }
    if asked.write.len() + asked.read.len() > TOKEN_PATTERNS_MAX {
        return Err(usage(format!("a token holds at most {TOKEN_PATTERNS_MAX} patterns")));
    }
    let role: Role = asked.role.parse().map_err(|error| usage(format!("{error}")))?;
    let labels = checked_labels(asked.labels)?;
    let names: Vec<String> = Some(asked.names).filter(|names| !names.is_empty()).into_iter().collect();
    for pattern in asked.write.iter().chain(&asked.read).chain(&names) {
        NamePattern::new(pattern.as_str()).map_err(|error| usage(error.to_string()))?;
    }
    let mut secret = [0; TOKEN_SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(|error| {
        CodedError::new(&codes::INTERNAL, format!("the system gave no random bytes for a token: {error}"))
    })?;
    let addresses = if asked.addresses.is_empty() { token_addresses(core) } else { asked.addresses };
    let token = Token::new(addresses, core.keys.authority.fingerprint(), secret)
        .map_err(|error| usage(error.to_string()).with_hint("give addresses as HOST:PORT with `--address`"))?;
    let record = TokenRecord {
        secret_hash: token.digest().0,
        uses_left: asked.uses,
        expires_at: core.now().plus(Duration::from_secs(asked.lifetime_s)),
        created_at: core.now(),
        labels,
        names,
        role,
        write_patterns: asked.write,
        read_patterns: asked.read,
    };
    core.catalog.add_token(&record).map_err(catalog_failed)?;
    out.send(&Answer::Token(NewToken {
        token: token.to_text(),
        id: token_id(&record.secret_hash),
        uses: asked.uses,
        lifetime_s: asked.lifetime_s,
    }))
}

pub(super) fn list_tokens(core: &Arc<Core>, out: &Emitter) -> Result<(), CodedError> {
    let now = core.now();
    for token in core.catalog.tokens().map_err(catalog_failed)? {
        if token.uses_left == 0 || token.expires_at <= now {
            continue;
        }
        out.send(&Answer::TokenRow(TokenRow {
            id: token_id(&token.secret_hash),
            uses_left: token.uses_left,
            expires_in_s: (token.expires_at.0 - now.0) / 1000,
            role: token.role.to_string(),
            labels: token.labels.into_iter().collect(),
            write: token.write_patterns,
            read: token.read_patterns,
            names: token.names.join(" "),
        }))?;
    }
    Ok(())
}

pub(super) fn revoke_token(core: &Arc<Core>, id: &str, out: &Emitter) -> Result<(), CodedError> {
    let digest = match Token::parse(id) {
        Ok(token) => Some(token.digest()),
        Err(_) => core
            .catalog
            .tokens()
            .map_err(catalog_failed)?
            .iter()
            .find(|token| token_id(&token.secret_hash) == id)
            .map(|token| SecretDigest(token.secret_hash)),
    };
    let removed = match digest {
        Some(digest) => core.catalog.remove_token(&digest.0).map_err(catalog_failed)?,
        None => false,
    };
    if !removed {
        return Err(not_found("token", id).with_hint("see `core-node token list` for those that there are"));
    }
    // Who shares a token has an identity that is made from it, and is gone with it.
    let name = digest.map(SecretDigest::shared_name).unwrap_or_default();
    let shared = core.catalog.device_named(&name).map_err(catalog_failed)?.filter(|device| device.role.is_shared());
    if let Some(device) = shared {
        core.catalog.revoke_device(&device.key, core.now()).map_err(catalog_failed)?;
        let closed = core.sessions.end(&device.key, &revoked(&device.name).refusal());
        tracing::info!(device = name, closed, "revoked with its token");
    }
    out.done("nobody joins with this token any more", json!({ "revoked": id }))
}

pub(super) fn list_devices(core: &Arc<Core>, asker: &Asker, out: &Emitter) -> Result<(), CodedError> {
    for device in core.catalog.devices().map_err(catalog_failed)? {
        out.send(&Answer::Device(Box::new(device_row(core, asker, &device, Vec::new()))))?;
    }
    Ok(())
}

pub(super) fn show_device(core: &Arc<Core>, asker: &Asker, name: &str, out: &Emitter) -> Result<(), CodedError> {
    let device = device_named(core, name)?;
    let writer = Principal::Device(device.key);
    let datasets = core.catalog.datasets().map_err(catalog_failed)?;
    let own = datasets.into_iter().filter(|dataset| dataset.writer == writer && asker.may_read(core, dataset));
    let own = own.map(|dataset| dataset.name).collect();
    out.send(&Answer::Device(Box::new(device_row(core, asker, &device, own))))
}

pub(super) fn label_device(
    core: &Arc<Core>,
    name: &str,
    set: BTreeMap<String, String>,
    remove: &[String],
    out: &Emitter,
) -> Result<(), CodedError> {
    let device = device_named(core, name)?;
    let mut labels: BTreeMap<String, String> = device.labels.iter().cloned().collect();
    labels.extend(set);
    labels.retain(|key, _| !remove.contains(key));
    let labels = checked_labels(labels)?;
    core.catalog
        .set_device_rights(&device.key, &labels, &device.write_patterns, &device.read_patterns)
        .map_err(catalog_failed)?;
    core.announce_rights();
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    out.done(format!("`{name}` has new labels"), json!({ "device": name, "labels": labels }))
}

pub(super) fn revoke_device(core: &Arc<Core>, name: &str, out: &Emitter) -> Result<(), CodedError> {
    let device = device_named(core, name)?;
    core.catalog.revoke_device(&device.key, core.now()).map_err(catalog_failed)?;
    let refusal = revoked(&device.name).refusal();
    let closed = core.sessions.end(&device.key, &refusal);
    tracing::info!(device = name, closed, "revoked");
    let connections = if closed == 0 { "" } else { ", and its connection is closed" };
    out.done(
        format!("`{name}` may not connect any more{connections}; what it published stays"),
        json!({ "device": name, "connections_closed": closed }),
    )
}

/// What a revoked device is told.
pub(crate) fn revoked(name: &str) -> CodedError {
    CodedError::new(&codes::DEVICE_REVOKED, format!("the core's operator has revoked the device `{name}`"))
}

fn device_named(core: &Core, name: &str) -> Result<DeviceRecord, CodedError> {
    core.catalog
        .device_named(name)
        .map_err(catalog_failed)?
        .ok_or_else(|| not_found("device", name).with_hint("see `core-node device list` for those that there are"))
}

/// Patterns and the device's own words may name datasets, so they are for those from whom none is hidden.
fn device_row(core: &Core, asker: &Asker, device: &DeviceRecord, datasets: Vec<String>) -> DeviceRow {
    let peer = core.rights.peer(device);
    let patterns = |patterns: &[NamePattern]| {
        let shown = patterns.iter().filter(|_| asker.sees_all());
        shown.map(ToString::to_string).collect()
    };
    DeviceRow {
        name: device.name.clone(),
        key: device.key.to_string(),
        state: match device.state {
            DeviceState::Revoked(_) => "revoked",
            DeviceState::Active if core.sessions.is_connected(&device.key) => "connected",
            DeviceState::Active => "away",
        }
        .to_owned(),
        role: device.role.to_string(),
        labels: device.labels.iter().cloned().collect(),
        write: patterns(&peer.grants.write),
        read: patterns(&peer.grants.read),
        release: device.status.release.clone(),
        backlog_bytes: device.status.backlog_bytes,
        oldest_unsent_s: device.status.oldest_unsent_s,
        disk_free_bytes: device.status.disk_free_bytes,
        last_error: asker.told(&device.status.last_error),
        seen_ago_s: device.last_seen_at.map(|seen: UnixMs| core.now().0.saturating_sub(seen.0) / 1000),
        datasets,
    }
}

fn checked_labels(labels: BTreeMap<String, String>) -> Result<Labels, CodedError> {
    for (key, value) in &labels {
        check_label(key, value).map_err(|error| CodedError::new(&codes::USAGE, error.to_string()))?;
    }
    Ok(labels.into_iter().collect())
}

fn token_id(secret_hash: &[u8; 32]) -> String {
    SecretDigest(*secret_hash).id()
}

/// Where devices can dial this core: what the configuration says, else the address it listens on, else the one from which
/// this machine reaches the world.
fn token_addresses(core: &Core) -> Vec<String> {
    if !core.config.addresses.is_empty() {
        return core.config.addresses.clone();
    }
    let bound = core.bound();
    if !bound.ip().is_unspecified() {
        return vec![bound.to_string()];
    }
    // Connecting a UDP socket sends nothing; it only asks the routing table for the source address.
    let outward = UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("192.0.2.1:9").map(|()| socket))
        .and_then(|socket| socket.local_addr())
        .map(|address| address.ip());
    match outward {
        Ok(ip) if !ip.is_unspecified() => vec![format!("{ip}:{}", bound.port())],
        _ => vec![format!("127.0.0.1:{}", bound.port())],
    }
}
