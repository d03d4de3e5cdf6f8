//! Devices and people that the core knows by their keys, and the tokens that let new ones join.

use headwater_protocol::id::PublicKey;
use headwater_protocol::name::Labels;
use headwater_protocol::trust::Role;
use headwater_protocol::wire::PeerStatus;

use super::{CatalogError, UnixMs};

/// Whether a device may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It may.
    Active,
    /// It may not, since then.
    Revoked(UnixMs),
}

/// A device, or a person's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its key: what it is.
    pub key: PublicKey,
    /// Its name; no two active devices share one.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// What it may do.
    pub role: Role,
    /// Whether it may connect.
    pub state: DeviceState,
    /// Patterns of dataset names that it may write.
    pub write_patterns: Vec<String>,
    /// Patterns of dataset names that it may read.
    pub read_patterns: Vec<String>,
    /// The last two nonces that it showed and those given to it since, oldest first; the caller bounds how many.
    pub nonces: Vec<Vec<u8>>,
    /// When its certificate ends.
    pub certificate_expires_at: UnixMs,
    /// When it joined.
    pub joined_at: UnixMs,
    /// When it was last heard of.
    pub last_seen_at: Option<UnixMs>,
    /// What it last said of itself.
    pub status: PeerStatus,
}

/// A token that lets devices join. The catalog knows the hash of its secret, never the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// BLAKE3 of the secret.
    pub secret_hash: [u8; 32],
    /// How often it can still be used.
    pub uses_left: u32,
    /// When it ends.
    pub expires_at: UnixMs,
    /// When it was made.
    pub created_at: UnixMs,
    /// Labels that the devices get.
    pub labels: Labels,
    /// Patterns that the devices' names must match; none: any name.
    pub names: Vec<String>,
    /// The role that they get.
    pub role: Role,
    /// What they may write.
    pub write_patterns: Vec<String>,
    /// What they may read.
    pub read_patterns: Vec<String>,
}

/// Why a token let nobody join. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// No token has this secret.
    #[error("no token has this secret")]
    Unknown,
    /// Its time is over.
    #[error("the token expired")]
    Expired {
        /// When.
        at: UnixMs,
    },
    /// It was used as often as it may be.
    #[error("the token is used up")]
    UsedUp,
    /// Another active device has the name.
    #[error("another device is named `{0}`")]
    NameTaken(String),
    /// The key was revoked.
    #[error("this device was revoked")]
    Revoked,
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Devices and tokens.
pub trait DeviceTable {
    /// The device with that key.
    fn device(&self, key: &PublicKey) -> Result<Option<DeviceRecord>, CatalogError>;
    /// The active device of that name, else the one revoked last.
    fn device_named(&self, name: &str) -> Result<Option<DeviceRecord>, CatalogError>;
    /// All devices by name.
    fn devices(&self) -> Result<Vec<DeviceRecord>, CatalogError>;
    /// Adds a device without a token; or renews one that is known by its key, keeping its nonces. Errors as for
    /// [`redeem_token`](Self::redeem_token).
    fn add_device(&self, device: &DeviceRecord) -> Result<(), RedeemError>;
    /// Uses a token once and adds the device, both or neither. A known, active key joins again: its record is renewed, its
    /// nonces are kept.
    fn redeem_token(&self, secret_hash: &[u8; 32], now: UnixMs, device: &DeviceRecord) -> Result<(), RedeemError>;
    /// Changes labels and patterns; whether the device exists.
    fn set_device_rights(
        &self,
        key: &PublicKey,
        labels: &Labels,
        write_patterns: &[String],
        read_patterns: &[String],
    ) -> Result<bool, CatalogError>;
    /// Revokes a device; whether it exists.
    fn revoke_device(&self, key: &PublicKey, at: UnixMs) -> Result<bool, CatalogError>;
    /// Replaces the nonces if they still are `expected`; whether they were.
    fn swap_nonces(&self, key: &PublicKey, expected: &[Vec<u8>], new: &[Vec<u8>]) -> Result<bool, CatalogError>;
    /// Notes a renewed certificate.
    fn set_certificate_expiry(&self, key: &PublicKey, expires_at: UnixMs) -> Result<(), CatalogError>;
    /// Notes that the device was heard of, and what it said of itself.
    fn note_seen(&self, key: &PublicKey, at: UnixMs, status: Option<&PeerStatus>) -> Result<(), CatalogError>;

    /// Adds a token.
    fn add_token(&self, token: &TokenRecord) -> Result<(), CatalogError>;
    /// The token of that secret, used up or not.
    fn token(&self, secret_hash: &[u8; 32]) -> Result<Option<TokenRecord>, CatalogError>;
    /// All tokens, newest first.
    fn tokens(&self) -> Result<Vec<TokenRecord>, CatalogError>;
    /// Removes a token; whether there was one.
    fn remove_token(&self, secret_hash: &[u8; 32]) -> Result<bool, CatalogError>;
}
