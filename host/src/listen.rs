//! Why a daemon can't listen where it is told to, in words that help.

use std::io;
use std::net::SocketAddr;

use crate::error::{CodedError, codes};

/// What a person is told when `setting` names an address that can't be listened on.
pub fn bind_failed(setting: &str, address: SocketAddr, error: io::Error) -> CodedError {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            CodedError::new(&codes::PORT_IN_USE, format!("another program listens on {address} already")).with_hint(
                format!(
                    "choose another port with `{setting}` in the configuration, or stop the other program (`ss -lntup`)"
                ),
            )
        }
        _ => CodedError::new(&codes::ADDRESS_UNUSABLE, format!("can't listen on {address}"))
            .with_hint(format!("give `{setting}` an address of this machine, as `0.0.0.0:4733`"))
            .with_source(error),
    }
}
