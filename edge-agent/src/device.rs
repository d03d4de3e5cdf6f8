//! What this device is to its core: its identity, its name and labels, where the core is, and the nonce of the last session.
//!
//! Each is a small durable file, so none is lost with a damaged catalog. The nonce above all: a device that shows an old
//! one looks like a clone.
//!
//! ```text
//! DIR/identity/           key and certificates, see headwater_quic::identity
//! DIR/device.json         name, labels, the core's addresses
//! DIR/nonce               what the last session gave
//! ```

use std::path::{Path, PathBuf};

use headwater_host::durable;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::name::NameContext;
use headwater_quic::{Identity, IdentityKey};
use serde::{Deserialize, Serialize};

const IDENTITY_FOLDER: &str = "identity";
const DEVICE_FILE: &str = "device.json";
const NONCE_FILE: &str = "nonce";

/// A device that has joined.
#[derive(Clone, Debug)]
pub struct Device {
    data: PathBuf,
    /// Its key and certificate.
    pub identity: Identity,
    /// What the core said of it.
    pub card: Card,
}

/// What the core said of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The name under which the core knows it.
    pub name: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Where the core listens.
    pub addresses: Vec<String>,
}

impl Device {
    /// The device in the data folder, if it has joined.
    pub fn load(data: &Path) -> Result<Option<Self>, CodedError> {
        let folder = data.join(IDENTITY_FOLDER);
        let path = data.join(DEVICE_FILE);
        if !Identity::exists(&folder) || !path.exists() {
            return Ok(None);
        }
        let unusable = |message: String| CodedError::new(&codes::IDENTITY_UNUSABLE, message);
        let identity = Identity::load(&folder).map_err(|error| {
            unusable(format!("the identity in `{}` can't be used", folder.display())).with_source(error)
        })?;
        let text = std::fs::read(&path)
            .map_err(|error| unusable(format!("`{}` can't be read", path.display())).with_source(error))?;
        let card = serde_json::from_slice(&text)
            .map_err(|error| unusable(format!("`{}` can't be understood", path.display())).with_source(error))?;
        Ok(Some(Self { data: data.to_owned(), identity, card }))
    }

    /// The key to join with: the one that an interrupted joining left, or a new one, durable before it is used.
    pub fn joining_key(data: &Path) -> Result<IdentityKey, CodedError> {
        let folder = data.join(IDENTITY_FOLDER);
        durable::create_folder(&folder, durable::PRIVATE_FOLDER_MODE).map_err(|error| {
            CodedError::io(&codes::WRITE_FAILED, format!("can't create `{}`", folder.display()), error)
        })?;
        IdentityKey::load_or_create(&folder).map_err(|error| {
            CodedError::new(&codes::IDENTITY_UNUSABLE, "the device's key can't be made or read").with_source(error)
        })
    }

    /// Keeps what joining gave. The card comes first: the certificate makes it count.
    pub fn joined(data: &Path, identity: Identity, card: Card) -> Result<Self, CodedError> {
        let device = Self { data: data.to_owned(), identity, card };
        // A nonce that another identity left would look like a clone's past.
        durable::remove_file(&data.join(NONCE_FILE))
            .map_err(|error| CodedError::io(&codes::WRITE_FAILED, "an old nonce can't be removed", error))?;
        device.save_card()?;
        device.save_identity()?;
        Ok(device)
    }

    /// Forgets the core. The key goes too: who joins again is a new device.
    pub fn leave(data: &Path) -> Result<(), CodedError> {
        let failed = |error| CodedError::io(&codes::WRITE_FAILED, "the identity can't be removed", error);
        for file in [DEVICE_FILE, NONCE_FILE] {
            durable::remove_file(&data.join(file)).map_err(failed)?;
        }
        match std::fs::remove_dir_all(data.join(IDENTITY_FOLDER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => durable::sync_folder(data).map_err(failed),
        }
    }

    /// What templates of names refer to.
    pub fn name_context(&self) -> NameContext<'_> {
        NameContext { device: &self.card.name, labels: &self.card.labels }
    }

    /// The nonce of the last session; empty before the first.
    pub fn nonce(&self) -> Result<Vec<u8>, CodedError> {
        match std::fs::read(self.data.join(NONCE_FILE)) {
            Ok(nonce) => Ok(nonce),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => {
                Err(CodedError::io(&codes::READ_FAILED, "the nonce of the last session can't be read", error))
            }
        }
    }

    /// Keeps the nonce that a session gave; durable before the session is used.
    pub fn save_nonce(&self, nonce: &[u8]) -> Result<(), CodedError> {
        durable::write_atomic(&self.data.join(NONCE_FILE), nonce, durable::PRIVATE_FILE_MODE)
            .map_err(|error| CodedError::io(&codes::WRITE_FAILED, "the nonce of this session can't be kept", error))
    }

    /// Keeps the card.
    pub fn save_card(&self) -> Result<(), CodedError> {
        let bytes = serde_json::to_vec_pretty(&self.card)
            .map_err(|error| CodedError::new(&codes::INTERNAL, "the card can't be written down").with_source(error))?;
        durable::write_atomic(&self.data.join(DEVICE_FILE), &bytes, durable::PRIVATE_FILE_MODE)
            .map_err(|error| CodedError::io(&codes::WRITE_FAILED, format!("can't write `{DEVICE_FILE}`"), error))
    }

    /// Keeps the identity, as after a renewal.
    pub fn save_identity(&self) -> Result<(), CodedError> {
        self.identity.save(&self.data.join(IDENTITY_FOLDER)).map_err(|error| {
            CodedError::new(&codes::WRITE_FAILED, "the device's certificate can't be kept").with_source(error)
        })
    }
}
