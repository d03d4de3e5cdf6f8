//! What a client is made with: explicitly, or from the environment as batch systems give it.

use std::path::Path;
use std::time::Duration;

use crate::job;
use headwater_fabric::RdmaSettings;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::trust::{Token, TokenError, is_address};

/// Names the core, as `host:port`; else the token's addresses are tried.
pub const CORE_VARIABLE: &str = "HEADWATER_CORE";
/// Names the file with the token.
pub const TOKEN_FILE_VARIABLE: &str = "HEADWATER_TOKEN_FILE";
/// Holds the token itself.
pub const TOKEN_VARIABLE: &str = "HEADWATER_TOKEN";

/// Names the job; ranks and workers of one job say the same.
pub const JOB_VARIABLE: &str = "HEADWATER_JOB";

/// Most bytes that a file with a token has.
const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;

/// What a client is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the core is, and what shows that one may read there.
    pub token: Token,
    /// Whether what arrives is checked against its hashes.
    pub verify: bool,
    /// Bytes of a receive buffer at the start; it grows where an answer needs more.
    pub buffer_bytes: usize,
    /// Bytes beyond which no receive buffer grows.
    pub buffer_bytes_max: usize,
    /// The job that this process is of: all its ranks and workers say the same. It is of the token's owner, so it collides with
    /// nobody else's. [`crate::job::id`] by default.
    pub job: String,
    /// RDMA, where this was built with it and the machine has a device.
    pub rdma: RdmaSettings,
    /// How long a core that has gone is waited for before a read fails.
    pub reconnect_for: Duration,
}

impl Options {
    /// With this token and the defaults.
    pub fn new(token: Token) -> Self {
        Self {
            token,
            job: job::id(),
            verify: true,
            buffer_bytes: 1 << 20,
            buffer_bytes_max: 256 << 20,
            rdma: RdmaSettings::default(),
            reconnect_for: Duration::from_mins(5),
        }
    }

    /// With a token as text; `core` overrides its addresses.
    pub fn of_token(token: &str, core: Option<&str>) -> Result<Self, CodedError> {
        let token = Token::parse(token).map_err(|error| match error {
            TokenError::FromTheFuture(_) => CodedError::new(&codes::PROTOCOL_TOO_NEW, error.to_string()),
            _ => CodedError::new(&codes::TOKEN_MISTYPED, error.to_string()),
        })?;
        let Some(core) = core else { return Ok(Self::new(token)) };
        if !is_address(core) {
            return Err(CodedError::new(&codes::USAGE, format!("`{core}` is no address of a core"))
                .with_hint("say HOST:PORT, as `core.example:4733`"));
        }
        let token = Token::new(vec![core.to_owned()], token.authority, *token.secret())
            .map_err(|error| CodedError::new(&codes::USAGE, error.to_string()))?;
        Ok(Self::new(token))
    }

    /// From [`TOKEN_VARIABLE`] or [`TOKEN_FILE_VARIABLE`], and [`CORE_VARIABLE`] if that is set.
    pub fn from_environment() -> Result<Self, CodedError> {
        Self::from_arguments(None, None)
    }

    /// As [`Options::from_environment`], but what is given goes first.
    pub fn from_arguments(core: Option<&str>, token_file: Option<&Path>) -> Result<Self, CodedError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = token_file.map(Path::to_owned).or_else(|| variable(TOKEN_FILE_VARIABLE).map(Into::into));
        let token = match (token_file.is_none().then(|| variable(TOKEN_VARIABLE)).flatten(), named) {
            (Some(token), _) => token,
            (None, Some(file)) => read(&file)?,
            (None, None) => {
                return Err(CodedError::new(&codes::NOT_JOINED, "nothing says which core to read from")
                    .with_hint(format!(
                        "put a token of `core-node token create --role reader` into a file, and its name into {TOKEN_FILE_VARIABLE}"
                    )));
            }
        };
        let core = core.map(ToOwned::to_owned).or_else(|| variable(CORE_VARIABLE));
        Self::of_token(&token, core.as_deref())
    }
}

fn read(file: &Path) -> Result<String, CodedError> {
    let failed = |error| {
        CodedError::io(&codes::READ_FAILED, format!("can't read the token in `{}`", file.display()), error).with_hint(
            format!("check the name of the file, in {TOKEN_FILE_VARIABLE} or as it was given, and who may read it"),
        )
    };
    if std::fs::metadata(file).map_err(failed)?.len() > TOKEN_FILE_BYTES_MAX {
        return Err(CodedError::new(&codes::TOKEN_MISTYPED, format!("`{}` holds no token", file.display())));
    }
    std::fs::read_to_string(file).map_err(failed)
}

#[cfg(test)]
mod tests {
    use headwater_protocol::trust::Fingerprint;

    use super::*;

    #[test]
    fn a_token_names_the_core_unless_something_else_does() {
        let token = Token::new(vec!["a:1".into()], Fingerprint([7; 32]), [8; 16]).expect("a token");
        let text = token.to_text();
        assert_eq!(Options::of_token(&text, None).expect("good").token.addresses, ["a:1"]);
        let other = Options::of_token(&text, Some("b:2")).expect("good").token;
        assert_eq!((&other.addresses[..], other.digest()), (&["b:2".to_owned()][..], token.digest()));
        assert!(Options::of_token(&text[..20], None).is_err_and(|error| error.is(&codes::TOKEN_MISTYPED)));
        assert!(Options::of_token(&text, Some("b")).is_err_and(|error| error.is(&codes::USAGE)));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, format!("{text}\n")).expect("written");
        assert_eq!(Options::from_arguments(Some("b:2"), Some(&file)).expect("good").token, other);
        let none = Options::from_arguments(None, Some(&folder.path().join("none")));
        assert!(none.is_err_and(|error| error.is(&codes::READ_FAILED)));
    }
}
