//! What may go over the link, as a person writes it.

use headwater_host::config::HumanRate;
use serde::{Deserialize, Serialize};

/// The smallest cap: a second must have room for one full datagram, with the headers of IPv6 and UDP. The handshake, about
/// 4.7 kB both ways, then fits into its time many times over.
pub(super) const CAP_MIN: HumanRate = HumanRate::of_bytes_per_s(1500);

/// What may go over the link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkSettings {
    /// The most that this device sends in any second, with all headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<HumanRate>,
}

impl LinkSettings {
    /// What can't be, by key.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        self.up.and_then(too_low).map(|message| ("link.up", message)).into_iter().collect()
    }
}

fn too_low(cap: HumanRate) -> Option<String> {
    if cap.bits_per_s == 0 {
        Some("under a cap of 0 this device never reaches its core".to_owned())
    } else if cap < CAP_MIN {
        Some(format!("the handshake with the core needs more than {cap}; {CAP_MIN} is the least"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::Settings;
    use headwater_host::config::Validate as _;

    /// What is wrong with a configuration, as `config check` says it.
    fn wrong(text: &str) -> String {
        let settings: Settings = toml::from_str(text).expect("understood");
        settings.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_cap_must_let_the_handshake_through() {
        for (up, found) in [
            ("2 Mbit/s", ""),
            ("12 kbit/s", ""),
            ("11 kbit/s", "`link.up`: the handshake with the core needs more than 11kbit/s; 12kbit/s is the least"),
            ("0", "`link.up`: under a cap of 0 this device never reaches its core"),
        ] {
            assert_eq!(wrong(&format!("[link]\nup = \"{up}\"\n")), found, "{up}");
        }
    }
}
