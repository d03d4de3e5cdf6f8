//! What a person tells the agent: `agent.toml`, and `folders.toml` beside it.
//!
//! Both have the same form. The first is the person's own and never written here; the second holds the folders that
//! commands added. Folders are in no catalog, so a damaged catalog never costs a setting.

mod link;
mod training;
mod week;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_host::config::{ConfigError, ConfigSources, HumanBytes, HumanDuration, Problem, Validate};
use headwater_host::error::{CodedError, codes};
pub use headwater_host::version::PublishMode as Mode;
use headwater_host::{durable, logging};
use headwater_protocol::commit::Durability;
use headwater_protocol::name::{NamePattern, NameTemplate};
use headwater_protocol::trust::is_address;
use headwater_quic::Congestion;
use serde::{Deserialize, Serialize};

pub use self::link::LinkSettings;
pub use self::training::TrainingSettings;
use crate::catalog::Role;
use crate::storage::quota::Limits;

/// The folders that commands added, in the data folder.
pub const FOLDERS_FILE: &str = "folders.toml";
/// The person's configuration, in the data folder unless `--config` says otherwise.
pub const CONFIG_FILE: &str = "agent.toml";
/// What environment variables that override settings begin with: `HEADWATER_AGENT_SCAN__THREADS=2`.
pub const ENVIRONMENT_PREFIX: &str = "HEADWATER_AGENT_";
const ENVIRONMENT_NOT_KEYS: &[&str] = &["DATA", "CONFIG"];
const FOLDERS_HEADER: &str = "# Folders that commands of edge-agent added. Your own settings belong into agent.toml.\n";
/// Versions of a subscription that stay beside the current one's predecessors, if nobody says otherwise.
pub const KEEP_VERSIONS: u32 = 3;
/// Time between two scans of a published folder, if nobody says otherwise. Watching finds most changes sooner.
pub const SCAN_EVERY: Duration = Duration::from_mins(5);
/// The least of it: a scan of nothing new still costs a look at every file.
pub const SCAN_EVERY_MIN: Duration = Duration::from_secs(1);
/// Time that a file must have been left alone before it is published, if nobody says otherwise.
pub const SETTLE: Duration = Duration::from_secs(2);
/// Most folders of one agent.
pub const FOLDERS_MAX: usize = 1024;

/// All settings of the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How to log.
    pub log: LogSettings,
    /// How to reach the core.
    pub core: CoreSettings,
    /// What may go over the link.
    pub link: LinkSettings,
    /// Where numbers can be read.
    pub metrics: MetricsSettings,
    /// How to scan folders.
    pub scan: ScanSettings,
    /// How to take part in federated runs.
    #[serde(skip_serializing_if = "is_default")]
    pub training: TrainingSettings,
    /// Folders that become datasets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishSettings>,
    /// Datasets that are kept here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<SubscribeSettings>,
    /// Folders that are versioned here and never leave the device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<LocalSettings>,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// What: `info`, `warn`, or a filter of `tracing`.
    pub filter: String,
    /// One JSON object a line.
    pub json: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}

/// Where numbers can be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Where the daemon serves `/metrics` over HTTP, as `127.0.0.1:4735`; nowhere if it is left out. Read at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// How to reach the core.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoreSettings {
    /// Addresses to dial instead of those that the token named, as `core.example:4733`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Congestion control: `bdp`, which is the default, `cubic`, `newreno` or `bbr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub congestion: Option<String>,
    /// Largest UDP payload that is tried, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu_max: Option<u16>,
}

impl CoreSettings {
    /// The addresses to dial: those that the settings name, or those that the token named.
    pub fn addresses_or<'a>(&'a self, of_token: &'a [String]) -> &'a [String] {
        if self.addresses.is_empty() { of_token } else { &self.addresses }
    }
}

/// How to scan folders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScanSettings {
    /// Threads that read and hash; 0 means one for each core, four at most.
    pub threads: usize,
    /// Time that a file must have been left alone before it is published.
    pub settle: HumanDuration,
    /// Whether changes are watched for between scans.
    pub watch: bool,
    /// Files that are not published, in gitignore syntax; they count before the rules in `.headwaterignore` files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Whether `.gitignore` files count too.
    pub gitignore: bool,
    /// Bytes of a first scan after which a version is committed while the scan goes on.
    pub version_bytes: HumanBytes,
}

impl Default for ScanSettings {
    fn default() -> Self {
        Self {
            threads: 0,
            settle: HumanDuration(SETTLE),
            watch: true,
            ignore: Vec::new(),
            gitignore: false,
            version_bytes: HumanBytes(8 << 30),
        }
    }
}

/// A folder that becomes a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishSettings {
    /// The folder.
    pub folder: PathBuf,
    /// The dataset's name; may hold `{device}` and `{label.KEY}`.
    pub dataset: NameTemplate,
    /// What happens to deleted files.
    #[serde(default)]
    pub mode: Mode,
    /// Time between two scans.
    #[serde(default = "scan_every")]
    pub every: HumanDuration,
    /// Whether it goes before everything else, as model updates do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub urgent: bool,
    /// The most that its files may take on the disk; above it, the oldest that the core keeps are freed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<HumanBytes>,
    /// The least that must stay free on the folder's file system; below it, files are freed likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_free: Option<HumanBytes>,
    /// How well the core must keep what is freed for these.
    #[serde(default = "local_disk", skip_serializing_if = "is_local_disk")]
    pub durability: Durability,
}

impl PublishSettings {
    /// A folder with nothing set but what must be.
    pub fn new(folder: PathBuf, dataset: NameTemplate) -> Self {
        Self {
            folder,
            dataset,
            mode: Mode::default(),
            every: scan_every(),
            urgent: false,
            quota: None,
            min_free: None,
            durability: local_disk(),
        }
    }

    /// The same with what a command says of it; what it leaves out stays as it is.
    pub fn with(self, options: &PublishOptions) -> Self {
        Self {
            mode: options.mode.unwrap_or(self.mode),
            every: options.every.unwrap_or(self.every),
            quota: options.quota.or(self.quota),
            min_free: options.min_free.or(self.min_free),
            durability: options.durability.unwrap_or(self.durability),
            ..self
        }
    }

    /// What the folder may hold.
    pub fn limits(&self) -> Limits {
        Limits { quota_bytes: self.quota.map(|bytes| bytes.0), free_bytes_min: self.min_free.map(|bytes| bytes.0) }
    }
}

/// What a command that publishes a folder says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishOptions {
    /// What happens to deleted files.
    pub mode: Option<Mode>,
    /// Time between two scans.
    pub every: Option<HumanDuration>,
    /// The most that its files may take on the disk.
    pub quota: Option<HumanBytes>,
    /// The least that must stay free on the folder's file system.
    pub min_free: Option<HumanBytes>,
    /// How well the core must keep what is freed for these.
    pub durability: Option<Durability>,
}

/// A dataset that is kept here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscribeSettings {
    /// A dataset's or collection's name, or a pattern such as `cam/*`.
    pub dataset: String,
    /// The folder in which a dataset stands as `current`; for a pattern or a collection, the one in which each dataset gets
    /// such a folder of its own.
    pub to: PathBuf,
    /// Versions that stay.
    #[serde(default = "keep_versions")]
    pub keep: u32,
}

/// A folder that is versioned here and never leaves the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalSettings {
    /// The folder.
    pub folder: PathBuf,
    /// The dataset's name on this device.
    pub dataset: NameTemplate,
}

fn scan_every() -> HumanDuration {
    HumanDuration(SCAN_EVERY)
}

fn local_disk() -> Durability {
    Durability::LocalDisk
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_local_disk(durability: &Durability) -> bool {
    *durability == Durability::LocalDisk
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn keep_versions() -> u32 {
    KEEP_VERSIONS
}

impl Settings {
    /// Reads the person's file, if there is one, the environment, and the folders that commands added.
    pub fn load(data: &Path, config: Option<&Path>) -> Result<Self, CodedError> {
        let sources = match config {
            Some(path) => ConfigSources::new().file(path, true),
            None => ConfigSources::new().file(data.join(CONFIG_FILE), false),
        };
        let sources = sources.environment(ENVIRONMENT_PREFIX, ENVIRONMENT_NOT_KEYS, std::env::vars());
        let mut settings: Self = sources.load().map_err(CodedError::from)?;
        let added = Self::added(data)?;
        settings.publish.extend(added.publish);
        settings.subscribe.extend(added.subscribe);
        settings.local.extend(added.local);
        settings.check()?;
        Ok(settings)
    }

    /// Only the folders that commands added.
    pub fn added(data: &Path) -> Result<Self, CodedError> {
        ConfigSources::new().file(data.join(FOLDERS_FILE), false).load().map_err(CodedError::from)
    }

    /// Keeps the folders that commands added, durably.
    pub fn save_added(&self, data: &Path) -> Result<(), CodedError> {
        let path = data.join(FOLDERS_FILE);
        let failed = |error| CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", path.display()), error);
        let folders = Folders { publish: &self.publish, subscribe: &self.subscribe, local: &self.local };
        let text = toml::to_string(&folders).map_err(|error| {
            CodedError::new(&codes::INTERNAL, "the folders can't be written down").with_source(error)
        })?;
        let text = format!("{FOLDERS_HEADER}\n{text}");
        durable::write_atomic(&path, text.as_bytes(), durable::PRIVATE_FILE_MODE).map_err(failed)
    }

    /// Checks what only shows when all settings are seen together.
    pub fn check(&self) -> Result<(), CodedError> {
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Mistakes(problems).into()) }
    }

    /// Whether a published folder, as its path leads now, has to do with a local one; links may have changed since the
    /// settings were checked.
    pub fn leak_from(&self, published: &Path) -> Option<CodedError> {
        let local = self.local.iter().find(|local| overlap(&local.folder, published))?;
        let message = format!("local dataset `{}`: {}", local.dataset, leak(&local.folder, published));
        Some(CodedError::new(&codes::PATH_UNSUITABLE, message))
    }

    /// Folders that are scanned: path, name template and role.
    pub fn scanned(&self) -> impl Iterator<Item = (&Path, &str, Role)> {
        let published =
            self.publish.iter().map(|entry| (entry.folder.as_path(), entry.dataset.as_str(), Role::Publish));
        let local = self.local.iter().map(|entry| (entry.folder.as_path(), entry.dataset.as_str(), Role::Local));
        published.chain(local)
    }
}

impl Validate for Settings {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut found = |key: &str, message: String| problems.push(Problem::of_key(key, message));
        let count = self.publish.len() + self.subscribe.len() + self.local.len();
        if count > FOLDERS_MAX {
            found("", format!("{count} folders are configured, and {FOLDERS_MAX} are the most"));
        }
        if let Err(error) = logging::check_filter(&self.log.filter) {
            found("log.filter", error.to_string());
        }
        if let Some(Err(error)) = self.core.congestion.as_ref().map(|name| name.parse::<Congestion>()) {
            found("core.congestion", error.to_string());
        }
        for address in self.core.addresses.iter().filter(|address| !is_address(address)) {
            found("core.addresses", format!("`{address}` is no address: say HOST:PORT"));
        }
        for entry in self.publish.iter().filter(|entry| entry.every.0 < SCAN_EVERY_MIN) {
            found(
                "publish.every",
                format!("`{}` can't be scanned more often than every second", entry.dataset.as_str()),
            );
        }
        for rule in &self.scan.ignore {
            if let Err(error) = headwater_host::scan::check_rule(rule) {
                found("scan.ignore", format!("`{rule}` is no rule: {error}"));
            }
        }
        for (key, message) in self.link.problems().into_iter().chain(self.training.problems()) {
            found(key, message);
        }
        let mut seen: Vec<&str> = Vec::new();
        for (folder, dataset, role) in self.scanned() {
            let key = if role == Role::Local { "local" } else { "publish" };
            if !folder.is_absolute() {
                found(key, format!("the folder `{}` of dataset `{dataset}` must be absolute", folder.display()));
            }
            if seen.contains(&dataset) {
                found(key, format!("the dataset `{dataset}` is configured twice"));
            }
            seen.push(dataset);
        }
        for local in &self.local {
            // A local folder inside a published one, or the reverse, would leave the device by the back door.
            if let Some(publish) = self.publish.iter().find(|publish| overlap(&publish.folder, &local.folder)) {
                found("local", leak(&local.folder, &publish.folder));
            }
        }
        for subscribe in &self.subscribe {
            let (name, to) = (&subscribe.dataset, subscribe.to.display());
            if !subscribe.to.is_absolute() {
                found("subscribe", format!("the folder `{to}` of `{name}` must be absolute"));
            }
            if let Err(error) = NamePattern::new(name.as_str()) {
                found("subscribe", format!("`{name}` can't be used: {error}"));
            }
            if subscribe.keep == 0 {
                found("subscribe", format!("`{name}` must keep at least 1 version"));
            }
            for other in self.subscribe.iter().take_while(|other| !std::ptr::eq(*other, subscribe)) {
                // Patterns may share a folder, since each of their datasets has one of its own in it.
                let is_shared =
                    other.to == subscribe.to && [other, subscribe].iter().all(|each| each.dataset.contains('*'));
                if overlap(&other.to, &subscribe.to) && !is_shared {
                    let (theirs, other) = (other.to.display(), &other.dataset);
                    found("subscribe", format!("the folder `{to}` of `{name}` overlaps `{theirs}` of `{other}`"));
                }
            }
            if let Some((folder, dataset, _)) = self.scanned().find(|(folder, ..)| overlap(folder, &subscribe.to)) {
                found("subscribe", format!("its folder `{to}` overlaps `{}` of dataset `{dataset}`", folder.display()));
            }
        }
        problems
    }
}

#[derive(Serialize)]
struct Folders<'a> {
    publish: &'a [PublishSettings],
    subscribe: &'a [SubscribeSettings],
    local: &'a [LocalSettings],
}

/// Whether one of two folders lies in the other, whichever links lead to them.
pub(crate) fn overlap(left: &Path, right: &Path) -> bool {
    let (left, right) = (real(left), real(right));
    left.starts_with(&right) || right.starts_with(&left)
}

/// Whether a folder is another or lies in it, whichever links lead to them.
pub(crate) fn is_in(path: &Path, folder: &Path) -> bool {
    real(path).starts_with(real(folder))
}

/// Where a path leads. What isn't there yet is taken by its name, in the folder that is.
fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

fn leak(local: &Path, published: &Path) -> String {
    let (local, published) = (local.display(), published.display());
    format!("its folder `{local}` overlaps the published `{published}`: it would leave the device")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn settings(published: &Path, local: &Path) -> Settings {
        let template = |name: &str| NameTemplate::new(name).expect("a name");
        Settings {
            publish: vec![PublishSettings::new(published.to_owned(), template("open"))],
            local: vec![LocalSettings { folder: local.to_owned(), dataset: template("secret") }],
            ..Settings::default()
        }
    }

    #[test]
    fn a_local_folder_overlaps_by_links_too() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("disk/secret")).expect("made");
        std::fs::create_dir_all(at("other")).expect("made");
        symlink(at("disk"), at("link")).expect("linked");
        for (published, local, is_leak) in [
            ("disk", "disk/secret", true),
            ("disk", "link/secret", true),
            ("link/secret/inner", "disk/secret", true),
            ("link", "disk/not-there-yet", true),
            ("disk/not-there-yet", "link", true),
            ("link/../other", "other", true),
            ("other", "link/secret", false),
            ("disk/secret-not", "link/secret", false),
        ] {
            let settings = settings(&at(published), &at(local));
            let problems = settings.problems();
            assert_eq!(!problems.is_empty(), is_leak, "{published} and {local}: {problems:?}");
            assert_eq!(settings.leak_from(&at(published)).is_some(), is_leak, "{published} and {local}");
        }
    }
}
