//! What may be set of RDMA, with what it is by default and why.

use serde::{Deserialize, Serialize};

/// RdmaSettings of the RDMA plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RdmaSettings {
    /// Whether RDMA is used where there is a device. It is by default.
    pub enabled: bool,
    /// Name of the device, such as `mlx5_0`; by default the first with an active port.
    pub device: Option<String>,
    /// Port of the device, from 1 on; by default the first that is active.
    pub port: Option<u8>,
    /// Place in the port's table of GIDs. By default the first of `RoCE` v2 with an IPv4 address, else of `RoCE` v2, else the first: version
    /// 1 is not routed, and a link-local address is on every port.
    pub gid_index: Option<u8>,
    /// Traffic class of the packets: its upper six bits are the DSCP by which switches choose a lossless class. 0 by default; the
    /// network's operator knows the right one.
    pub traffic_class: u8,
    /// Service level (`InfiniBand`), or the priority (`RoCE` with VLANs). 0 by default.
    pub service_level: u8,
    /// How long the device waits for an acknowledgement before it repeats: 4.096 µs · 2^timeout. 14 by default, which is 67 ms: above
    /// what a full switch delays, and after all retries a dead peer is noticed within a second.
    pub timeout: u8,
    /// How often it repeats before the connection counts as broken, up to 7. 6 by default: Soft-RoCE takes 7 for ever.
    pub retries: u8,
    /// For how many microseconds a receiver looks for completions before it sleeps until the device wakes it. 0 by default: a wake-up
    /// costs some 5 µs, spinning costs a core.
    pub spin_us: u32,
}

impl Default for RdmaSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            device: None,
            port: None,
            gid_index: None,
            traffic_class: 0,
            service_level: 0,
            timeout: 14,
            retries: 6,
            spin_us: 0,
        }
    }
}

/// A value that the device has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is {value}, but goes from {least} to {most}")]
pub struct RdmaSettingsError {
    name: &'static str,
    value: u32,
    least: u32,
    most: u32,
}

/// A second of looking is for ever on a machine that has other work.
const SPIN_US_MAX: u32 = 1_000_000;

impl RdmaSettings {
    /// What is wrong with it, all at once.
    pub fn problems(&self) -> Vec<RdmaSettingsError> {
        let bounds = [
            ("port", self.port.map_or(1, u32::from), 1, 255),
            ("service_level", self.service_level.into(), 0, 15),
            // 0 means to wait for ever, and then nobody falls back to TCP.
            ("timeout", self.timeout.into(), 1, 31),
            ("retries", self.retries.into(), 0, 7),
            ("spin_us", self.spin_us, 0, SPIN_US_MAX),
        ];
        let is_wrong = |(name, value, least, most)| {
            (!(least..=most).contains(&value)).then_some(RdmaSettingsError { name, value, least, most })
        };
        bounds.into_iter().filter_map(is_wrong).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_mistakes_are_named() {
        assert_eq!(RdmaSettings::default().problems(), []);
        let wrong =
            RdmaSettings { port: Some(0), timeout: 0, retries: 8, service_level: 16, ..RdmaSettings::default() };
        let said: Vec<String> = wrong.problems().iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!(said[2], "`timeout` is 0, but goes from 1 to 31");
    }
}
