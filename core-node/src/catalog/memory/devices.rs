//! Devices and tokens in memory.

use headwater_protocol::id::PublicKey;
use headwater_protocol::name::Labels;
use headwater_protocol::wire::PeerStatus;

use super::{MemoryCatalog, State};
use crate::catalog::{CatalogError, DeviceRecord, DeviceState, DeviceTable, RedeemError, TokenRecord, UnixMs};

impl State {
    fn join(&mut self, device: &DeviceRecord) -> Result<(), RedeemError> {
        let mut entered = device.clone();
        if let Some(known) = self.devices.get(&device.key) {
            if known.state != DeviceState::Active {
                return Err(RedeemError::Revoked);
            }
            entered.nonces.clone_from(&known.nonces);
            entered.joined_at = known.joined_at;
            entered.last_seen_at = known.last_seen_at;
            entered.status.clone_from(&known.status);
        }
        let taken = |other: &DeviceRecord| {
            other.name == device.name && other.key != device.key && other.state == DeviceState::Active
        };
        if self.devices.values().any(taken) {
            return Err(RedeemError::NameTaken(device.name.clone()));
        }
        self.devices.insert(device.key, entered);
        Ok(())
    }
}

impl MemoryCatalog {
    fn change_device(&self, key: &PublicKey, change: impl FnOnce(&mut DeviceRecord)) -> bool {
        self.state().devices.get_mut(key).map(change).is_some()
    }
}

impl DeviceTable for MemoryCatalog {
    fn device(&self, key: &PublicKey) -> Result<Option<DeviceRecord>, CatalogError> {
        Ok(self.state().devices.get(key).cloned())
    }

    fn device_named(&self, name: &str) -> Result<Option<DeviceRecord>, CatalogError> {
        let state = self.state();
        let named = state.devices.values().filter(|device| device.name == name);
        Ok(named
            .max_by_key(|device| match device.state {
                DeviceState::Active => (true, UnixMs(0)),
                DeviceState::Revoked(at) => (false, at),
            })
            .cloned())
    }

    fn devices(&self) -> Result<Vec<DeviceRecord>, CatalogError> {
        let mut devices: Vec<_> = self.state().devices.values().cloned().collect();
        devices.sort_by(|left, right| (&left.name, left.key).cmp(&(&right.name, right.key)));
        Ok(devices)
    }

    fn add_device(&self, device: &DeviceRecord) -> Result<(), RedeemError> {
        self.state().join(device)
    }

    fn redeem_token(&self, secret_hash: &[u8; 32], now: UnixMs, device: &DeviceRecord) -> Result<(), RedeemError> {
        let mut state = self.state();
        let token = state.tokens.get(secret_hash).ok_or(RedeemError::Unknown)?;
        if token.expires_at <= now {
            return Err(RedeemError::Expired { at: token.expires_at });
        }
        if token.uses_left == 0 {
            return Err(RedeemError::UsedUp);
        }
        state.join(device)?;
        if let Some(token) = state.tokens.get_mut(secret_hash) {
            token.uses_left -= 1;
        }
        Ok(())
    }

    fn set_device_rights(
        &self,
        key: &PublicKey,
        labels: &Labels,
        write_patterns: &[String],
        read_patterns: &[String],
    ) -> Result<bool, CatalogError> {
        Ok(self.change_device(key, |device| {
            device.labels.clone_from(labels);
            device.write_patterns = write_patterns.to_vec();
            device.read_patterns = read_patterns.to_vec();
        }))
    }

    fn revoke_device(&self, key: &PublicKey, at: UnixMs) -> Result<bool, CatalogError> {
        Ok(self.change_device(key, |device| {
            if device.state == DeviceState::Active {
                device.state = DeviceState::Revoked(at);
            }
        }))
    }

    fn swap_nonces(&self, key: &PublicKey, expected: &[Vec<u8>], new: &[Vec<u8>]) -> Result<bool, CatalogError> {
        let mut swapped = false;
        self.change_device(key, |device| {
            if device.nonces == expected {
                device.nonces = new.to_vec();
                swapped = true;
            }
        });
        Ok(swapped)
    }

    fn set_certificate_expiry(&self, key: &PublicKey, expires_at: UnixMs) -> Result<(), CatalogError> {
        self.change_device(key, |device| device.certificate_expires_at = expires_at);
        Ok(())
    }

    fn note_seen(&self, key: &PublicKey, at: UnixMs, status: Option<&PeerStatus>) -> Result<(), CatalogError> {
        self.change_device(key, |device| {
            device.last_seen_at = Some(at);
            if let Some(status) = status {
                device.status.clone_from(status);
            }
        });
        Ok(())
    }

    fn add_token(&self, token: &TokenRecord) -> Result<(), CatalogError> {
        let mut state = self.state();
        if state.tokens.contains_key(&token.secret_hash) {
            return Err(CatalogError::Failed { action: "add a token", source: "it exists".into() });
        }
        state.tokens.insert(token.secret_hash, token.clone());
        Ok(())
    }

    fn token(&self, secret_hash: &[u8; 32]) -> Result<Option<TokenRecord>, CatalogError> {
        Ok(self.state().tokens.get(secret_hash).cloned())
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>, CatalogError> {
        let mut tokens: Vec<_> = self.state().tokens.values().cloned().collect();
        tokens.sort_by_key(|token| (std::cmp::Reverse(token.created_at), token.secret_hash));
        Ok(tokens)
    }

    fn remove_token(&self, secret_hash: &[u8; 32]) -> Result<bool, CatalogError> {
        Ok(self.state().tokens.remove(secret_hash).is_some())
    }
}
