//! What `core.toml` may say, with its defaults; unknown keys are refused where it is read (`headwater_host::config`).
//!
//! A daemon that finds no file runs on the defaults, so `core-node init` writes one whose every line is a comment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use headwater_fabric::RdmaSettings;
use headwater_host::config::{HumanBytes, HumanDuration, Problem, Validate};
use headwater_host::logging;
use headwater_protocol::trust::is_address;
use headwater_quic::Congestion;
use serde::{Deserialize, Serialize};

use crate::rights::Rights;

/// Port on which devices reach a core when the configuration names none.
pub const LISTEN_PORT_DEFAULT: u16 = 4733;
/// Port of metrics and the status page when the configuration names none.
pub const ADMIN_PORT_DEFAULT: u16 = 4734;

/// Least memory for transfers with which one can make progress.
pub const TRANSFERS_BYTES_MIN: u64 = 8 << 20;

/// Least memory for chunks that training jobs read: some of the largest size fit.
pub const CACHE_BYTES_MIN: u64 = 4 << 20;

/// Size of a pack when the configuration names none, in bytes.
pub const PACK_SIZE_DEFAULT: u64 = 256 << 20;
/// Least size of a pack: one chunk of the largest size fits.
pub const PACK_SIZE_MIN: u64 = 2 << 20;

/// Longest validity of a device's certificate; the authority's own is no longer.
pub const CERTIFICATE_LIFETIME_MAX: Duration = Duration::from_hours(100 * 365 * 24);

/// The configuration of a core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The core's own name: the origin of what it imports.
    pub name: String,
    /// Where devices connect, over UDP.
    pub listen: SocketAddr,
    /// Where metrics and the status page are served, over HTTP; none turns them off with `admin = false`.
    pub admin_listen: SocketAddr,
    /// Whether metrics and the status page are served at all.
    pub admin: bool,
    /// Addresses that tokens tell devices to dial, as `host:port`. Empty: the machine's own.
    pub addresses: Vec<String>,
    /// What is logged, in the syntax of `tracing`: `info`, `debug`, `core_node=debug`.
    pub log: String,
    /// Logs as JSON, one object a line.
    pub log_json: bool,
    /// How connections behave.
    pub network: NetworkConfig,
    /// How much memory is used.
    pub memory: MemoryConfig,
    /// How training jobs are served.
    pub serving: ServingConfig,
    /// How bytes rest.
    pub store: StoreConfig,
    /// How long what devices have proved to have uploaded is kept without a version that names it.
    pub proofs: ProofConfig,
    /// What devices show who they are with.
    pub certificates: CertificateConfig,
    /// Which versions are kept where a dataset has no rule of its own.
    pub retention: RetentionConfig,
    /// Federated runs.
    pub federation: FederationConfig,
    /// When dead packs are freed by themselves.
    pub gc: GcConfig,
    /// What a device may read and write when neither its token nor a rule says so.
    pub defaults: DefaultRights,
    /// Further rights, by label.
    pub rules: Vec<Rule>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "core".to_owned(),
            listen: SocketAddr::from(([0, 0, 0, 0], LISTEN_PORT_DEFAULT)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT_DEFAULT)),
            admin: true,
            addresses: Vec::new(),
            log: "info".to_owned(),
            log_json: false,
            network: NetworkConfig::default(),
            memory: MemoryConfig::default(),
            serving: ServingConfig::default(),
            store: StoreConfig::default(),
            proofs: ProofConfig::default(),
            certificates: CertificateConfig::default(),
            retention: RetentionConfig::default(),
            federation: FederationConfig::default(),
            gc: GcConfig::default(),
            defaults: DefaultRights::default(),
            rules: Vec::new(),
        }
    }
}

/// How connections behave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Congestion control: `bdp`, `cubic`, `newreno` or `bbr`.
    pub congestion: String,
    /// Longest silence before a connection counts as lost.
    pub idle_timeout: HumanDuration,
    /// How long a new connection may take to say hello.
    pub hello_timeout: HumanDuration,
    /// Most sessions at once.
    pub sessions_max: u32,
    /// Largest UDP payload to discover, in bytes.
    pub mtu_max: u16,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            congestion: "bdp".to_owned(),
            idle_timeout: HumanDuration(Duration::from_mins(1)),
            hello_timeout: HumanDuration(Duration::from_secs(20)),
            sessions_max: 20_000,
            mtu_max: headwater_quic::endpoint::MTU_DEFAULT,
        }
    }
}

/// How much memory is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// What all sessions together may have in flight towards the store.
    pub transfers: HumanBytes,
    /// Decoded pages that are kept.
    pub pages: HumanBytes,
    /// Plain chunks that are kept for training jobs. It is taken when the first job reads.
    pub cache: HumanBytes,
    /// What is known of the samples of versions that jobs read: about 80 bytes a file.
    pub plans: HumanBytes,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            transfers: HumanBytes(96 << 20),
            pages: HumanBytes(16 << 20),
            cache: HumanBytes(256 << 20),
            plans: HumanBytes(64 << 20),
        }
    }
}

/// How training jobs are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServingConfig {
    /// Whether nobody but its owners can read or change what travels between core and jobs: then it is not encrypted. What
    /// arrives is verified either way.
    pub trusted_network: bool,
    /// RDMA, where the core was built with it and the machine has a device. It is not encrypted, so it needs a trusted network.
    pub rdma: RdmaSettings,
    /// How long after a job's last session it is remembered what its names stood for: ranks that come back read the same.
    pub job_grace: HumanDuration,
}

impl Default for ServingConfig {
    fn default() -> Self {
        Self {
            trusted_network: false,
            rdma: RdmaSettings::default(),
            job_grace: HumanDuration(Duration::from_hours(1)),
        }
    }
}

/// How bytes rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Size at which a pack is sealed and the next begun. Small ones free disk sooner, large ones are fewer files.
    pub pack_size: HumanBytes,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { pack_size: HumanBytes(PACK_SIZE_DEFAULT) }
    }
}

/// How long uploads without a version are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProofConfig {
    /// How long an upload that no version names yet stays protected from `gc`.
    pub lifetime: HumanDuration,
    /// Unfinished chunks that are kept for one device.
    pub prefixes: HumanBytes,
}

impl Default for ProofConfig {
    fn default() -> Self {
        Self { lifetime: HumanDuration(Duration::from_hours(14 * 24)), prefixes: HumanBytes(32 << 20) }
    }
}

/// What devices show who they are with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateConfig {
    /// How long a device's certificate is valid. One that ends soon, or has ended, is renewed at the device's next session; the
    /// list of devices decides who gets one, never the date.
    pub lifetime: HumanDuration,
}

impl Default for CertificateConfig {
    fn default() -> Self {
        Self { lifetime: HumanDuration(headwater_quic::CERTIFICATE_LIFETIME) }
    }
}

/// Which versions are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Newest versions that are kept of each dataset; 0 keeps all.
    pub keep_last: u32,
    /// Days for which every version is kept, besides; 0 sets no such span.
    pub keep_days: u32,
}

/// Federated runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FederationConfig {
    /// Updates that are kept of each device and run, for checking models by.
    pub updates_keep: UpdatesKeep,
}

/// Which updates are kept, of each device and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "toml::Value")]
pub enum UpdatesKeep {
    /// All: `"all"`.
    All,
    /// The newest, so many.
    Newest(NonZeroU32),
    /// None once it is in a model: `"none"`.
    Nothing,
}

impl Default for UpdatesKeep {
    fn default() -> Self {
        Self::Newest(const { NonZeroU32::new(100).unwrap() })
    }
}

impl From<UpdatesKeep> for toml::Value {
    fn from(keep: UpdatesKeep) -> Self {
        match keep {
            UpdatesKeep::All => Self::String("all".to_owned()),
            UpdatesKeep::Newest(count) => Self::Integer(count.get().into()),
            UpdatesKeep::Nothing => Self::String("none".to_owned()),
        }
    }
}

impl TryFrom<toml::Value> for UpdatesKeep {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        let count = value.as_integer().and_then(|count| u32::try_from(count).ok()).and_then(NonZeroU32::new);
        match (value.as_str(), count) {
            (Some("all"), _) => Ok(Self::All),
            (Some("none"), _) => Ok(Self::Nothing),
            (_, Some(count)) => Ok(Self::Newest(count)),
            _ => Err(format!("{value} is neither a number of updates, from 1 on, nor \"all\" or \"none\"")),
        }
    }
}

/// When dead packs are freed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcConfig {
    /// Time between two runs; `0s` leaves it to `core-node gc`.
    pub every: HumanDuration,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self { every: HumanDuration(Duration::from_hours(24)) }
    }
}

/// What a device may do when neither its token nor a rule says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultRights {
    /// Dataset names it may publish under. A name that another writer has is refused in any case.
    pub write: Vec<String>,
    /// Datasets it may read besides its own.
    pub read: Vec<String>,
}

impl Default for DefaultRights {
    fn default() -> Self {
        Self { write: vec!["**".to_owned()], read: Vec::new() }
    }
}

/// Rights for the devices whose labels match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Labels that a device must have, all of them.
    pub labels: BTreeMap<String, String>,
    /// Dataset names it may publish under; may hold `{device}` and `{label.x}`.
    pub write: Vec<String>,
    /// Datasets it may read; may hold `{device}` and `{label.x}`.
    pub read: Vec<String>,
}

impl Validate for Config {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Err(error) = self.network.congestion.parse::<Congestion>() {
            problems.push(Problem::of_key("network.congestion", error.to_string()));
        }
        if let Err(error) = logging::check_filter(&self.log) {
            problems.push(Problem::of_key("log", error.to_string()));
        }
        for address in self.addresses.iter().filter(|address| !is_address(address)) {
            problems.push(Problem::of_key("addresses", format!("`{address}` is no address: say HOST:PORT")));
        }
        if let Err(error) = Rights::new(self) {
            problems.push(Problem::of_key("", error.to_string()));
        }
        if let Err(error) = headwater_protocol::name::check_device_name(&self.name) {
            problems.push(Problem::of_key("name", error.to_string()));
        }
        if self.memory.transfers.0 < TRANSFERS_BYTES_MIN {
            problems
                .push(Problem::of_key("memory.transfers", format!("at least {TRANSFERS_BYTES_MIN} bytes are needed")));
        }
        if self.memory.cache.0 < CACHE_BYTES_MIN {
            problems.push(Problem::of_key("memory.cache", format!("at least {CACHE_BYTES_MIN} bytes are needed")));
        }
        for problem in self.serving.rdma.problems() {
            problems.push(Problem::of_key("serving.rdma", problem.to_string()));
        }
        if self.certificates.lifetime.0 > CERTIFICATE_LIFETIME_MAX || self.certificates.lifetime.0.is_zero() {
            problems
                .push(Problem::of_key("certificates.lifetime", "more than nothing and at most 100 years".to_owned()));
        }
        if self.store.pack_size.0 < PACK_SIZE_MIN {
            problems.push(Problem::of_key("store.pack_size", format!("at least {PACK_SIZE_MIN} bytes are needed")));
        }
        problems
    }
}
