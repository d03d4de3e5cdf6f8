//! The token that an operator copies to a device: where the core is, which authority to trust, and a secret.
//!
//! As text it is `hw1-` and base32 in lower case, of which the last four bytes are a checksum: a token with a letter lost
//! or changed on the way is recognised before anything is sent anywhere. Upper case and white space don't matter.
//!
//! ```text
//! "hw1-" base32( fingerprint[32] secret[16] count[1] { length[1] address[length] }* checksum[4] )
//! ```

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use super::Fingerprint;

/// Bytes of a token's digest that its id shows.
const TOKEN_ID_BYTES: usize = 5;
const SHARED_KEY_CONTEXT: &str = "headwater 2026 identity of those who share a token";
/// Bytes of a token's secret.
pub const TOKEN_SECRET_BYTES: usize = 16;
/// Most addresses of a core in a token.
pub const TOKEN_ADDRESSES_MAX: usize = 8;
/// Longest address in a token, in bytes.
const ADDRESS_BYTES_MAX: usize = 255;
/// Longest text that is looked at.
const TOKEN_TEXT_BYTES_MAX: usize = 8 * 1024;
const CHECKSUM_BYTES: usize = 4;
const PREFIX: &str = "hw1-";
const SECRET_CONTEXT: &str = "headwater token secret v1";

/// What a device needs to join a core.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Where the core listens, most preferred first: `host:port`, with a name or an address.
    pub addresses: Vec<String>,
    /// The core's authority.
    pub authority: Fingerprint,
    secret: [u8; TOKEN_SECRET_BYTES],
}

/// BLAKE3 of a token's secret, which is all that the core keeps of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretDigest(pub [u8; 32]);

impl SecretDigest {
    /// The digest of a secret.
    pub fn of(secret: &[u8]) -> Self {
        Self(blake3::derive_key(SECRET_CONTEXT, secret))
    }

    /// What people call the token by: enough of the digest to tell it from others.
    pub fn id(self) -> String {
        data_encoding::HEXLOWER.encode(&self.0[..TOKEN_ID_BYTES])
    }

    /// The name of the identity that all who share the token have.
    pub fn shared_name(self) -> String {
        format!("token-{}", self.id())
    }
}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretDigest({})", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

/// Why a text is not a token that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not look like one at all.
    #[error("this is no token: a token begins with `{PREFIX}` and is followed by letters and digits")]
    NotAToken,
    /// It begins like one, but something was lost or changed.
    #[error("this token was mistyped or cut off: its checksum does not fit; copy it again, whole")]
    Mistyped,
    /// It is of a kind that a later release introduced.
    #[error("this token begins with `{0}`, which a later release introduced; update the software on this device")]
    FromTheFuture(String),
    /// The core's addresses can't be put in a token.
    #[error("a token holds 1 to {TOKEN_ADDRESSES_MAX} addresses of the form `host:port`; `{0}` can't be put in one")]
    Address(String),
}

impl Token {
    /// A token from its parts. The secret must be random.
    pub fn new(
        addresses: Vec<String>,
        authority: Fingerprint,
        secret: [u8; TOKEN_SECRET_BYTES],
    ) -> Result<Self, TokenError> {
        if let Some(bad) = addresses.iter().find(|address| !is_address(address)) {
            return Err(TokenError::Address(bad.clone()));
        }
        if addresses.is_empty() || addresses.len() > TOKEN_ADDRESSES_MAX {
            return Err(TokenError::Address(addresses.join(" ")));
        }
        Ok(Self { addresses, authority, secret })
    }

    /// The secret, for the core that the token names and nobody else.
    pub fn secret(&self) -> &[u8; TOKEN_SECRET_BYTES] {
        &self.secret
    }

    /// What the core keeps in its place.
    pub fn digest(&self) -> SecretDigest {
        SecretDigest::of(&self.secret)
    }

    /// The seed of the private key that all who share the token have: whoever has the token can be them, and nobody else.
    pub fn shared_key_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(SHARED_KEY_CONTEXT, &self.secret))
    }

    /// The text for people, secret included.
    pub fn to_text(&self) -> String {
        let mut bytes = Zeroizing::new(Vec::with_capacity(128));
        bytes.extend_from_slice(&self.authority.0);
        bytes.extend_from_slice(&self.secret);
        bytes.push(self.addresses.len() as u8);
        for address in &self.addresses {
            bytes.push(address.len() as u8);
            bytes.extend_from_slice(address.as_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }

    /// Reads the text of [`Token::to_text`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_TEXT_BYTES_MAX {
            return Err(TokenError::NotAToken);
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
        let Some(body) = text.strip_prefix(PREFIX) else {
            return Err(future_prefix(&text).map_or(TokenError::NotAToken, TokenError::FromTheFuture));
        };
        let bytes = BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(|_| TokenError::Mistyped)?;
        let bytes = Zeroizing::new(bytes);
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TokenError::Mistyped)?;
        if checksum(content) != *sum {
            return Err(TokenError::Mistyped);
        }
        read(content).ok_or(TokenError::Mistyped)
    }
}

fn read(content: &[u8]) -> Option<Token> {
    let (fingerprint, rest) = content.split_first_chunk::<32>()?;
    let (secret, rest) = rest.split_first_chunk::<TOKEN_SECRET_BYTES>()?;
    let (&count, mut rest) = rest.split_first()?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let (&length, after) = rest.split_first()?;
        let (address, after) = after.split_at_checked(length as usize)?;
        addresses.push(String::from_utf8(address.to_vec()).ok()?);
        rest = after;
    }
    if !rest.is_empty() {
        return None;
    }
    Token::new(addresses, Fingerprint(*fingerprint), *secret).ok()
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::derive_key("headwater token checksum v1", content);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// `hw2-` of a text that begins so, for any number but this release's.
fn future_prefix(text: &str) -> Option<String> {
    let (prefix, _) = text.split_once('-')?;
    let number = prefix.strip_prefix("hw")?;
    let is_number = (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| format!("{prefix}-"))
}

/// Whether this can be where a core listens: `host:port`, with a name or an address.
pub fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    address.len() <= ADDRESS_BYTES_MAX
        && !host.is_empty()
        && port.parse::<u16>().is_ok_and(|port| port != 0)
        && address.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Drop for Token {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret);
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::parse(text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("addresses", &self.addresses)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}
