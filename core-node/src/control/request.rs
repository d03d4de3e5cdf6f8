//! What a person can ask a running core: one enum, whoever asks and however the question came.
//!
//! The local socket and `Message::Control` carry the same JSON, so a new command is one variant here, one arm in the
//! handler, and its arguments in `cli`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use headwater_host::version::PublishMode;
use serde::{Deserialize, Serialize};

use crate::federation::RunSettings;

/// A request to the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the core is.
    Status,
    /// What could be wrong with the machine or the configuration.
    Doctor,
    /// A token with which devices join.
    TokenCreate(TokenCreate),
    /// All tokens that can still be used.
    TokenList,
    /// No device joins with this token any more.
    TokenRevoke {
        /// Its id, as `token list` shows it.
        id: String,
    },
    /// All devices.
    DeviceList,
    /// One device.
    DeviceShow {
        /// Its name.
        name: String,
    },
    /// Changes a device's labels.
    DeviceLabel {
        /// Its name.
        name: String,
        /// Labels to set.
        set: BTreeMap<String, String>,
        /// Labels to take away.
        remove: Vec<String>,
    },
    /// Ends a device's access, at once.
    DeviceRevoke {
        /// Its name.
        name: String,
    },
    /// Datasets, by pattern.
    DatasetList {
        /// Which; none lists all.
        pattern: Option<String>,
    },
    /// Whether the one who asks may publish under a name, and what its next version would follow on.
    DatasetNext {
        /// The name.
        dataset: String,
    },
    /// One version of a dataset, and what is kept of it.
    DatasetShow {
        /// The version.
        version: String,
    },
    /// All versions of a dataset, newest first.
    DatasetLog {
        /// Its name.
        dataset: String,
        /// Most versions to list.
        limit: u64,
    },
    /// The files of a version.
    DatasetFiles {
        /// The version.
        version: String,
        /// Only what lies under this path.
        under: String,
        /// Most files to list; 0 lists all.
        limit: u64,
    },
    /// Which samples of a version, as jobs count them, have a file that a pattern matches, and these labels.
    DatasetSelect {
        /// The version.
        version: String,
        /// The patterns, as `train/**` or `*.png`: one has to match, if there are any.
        patterns: Vec<String>,
        /// What the labels have to be, all of them.
        #[serde(default)]
        labels: Vec<LabelTerm>,
    },
    /// What changed between two versions.
    DatasetDiff {
        /// The older.
        from: String,
        /// The newer.
        to: String,
    },
    /// Writes a version's files into a folder of the core's machine.
    DatasetExport {
        /// The version.
        version: String,
        /// The folder; absolute.
        to: PathBuf,
    },
    /// Gives a version a name that keeps it.
    DatasetTag {
        /// The version.
        version: String,
        /// The tag.
        tag: String,
    },
    /// Takes a tag away.
    DatasetUntag {
        /// The dataset.
        dataset: String,
        /// The tag.
        tag: String,
    },
    /// Deletes a dataset with all its versions.
    DatasetDelete {
        /// Its name.
        dataset: String,
        /// Also where devices have freed their own copies.
        last_copy: bool,
        /// Also where collections hold versions of it.
        #[serde(default)]
        from_collections: bool,
    },
    /// Makes another device, or the core, a dataset's writer.
    DatasetHandOver {
        /// Its name.
        dataset: String,
        /// Name of the device; none is the core itself.
        to: Option<String>,
    },
    /// What the samples of a dataset are.
    DatasetSamples {
        /// Its name.
        dataset: String,
        /// The rule; none asks what it is.
        rule: Option<String>,
    },
    /// Which versions of a dataset are kept.
    DatasetRetention {
        /// Its name.
        dataset: String,
        /// Newest versions that are kept; 0 keeps all. None leaves it.
        keep_last: Option<u32>,
        /// Days for which all versions are kept. None leaves it.
        keep_days: Option<u32>,
        /// Drop the dataset's own rule; the configuration's holds again.
        reset: bool,
    },
    /// A collection of datasets, read as one.
    CollectionCreate(CollectionCreate),
    /// Deletes a collection with all its numbers; its datasets stay.
    CollectionDelete {
        /// Its name.
        name: String,
    },
    /// All collections.
    CollectionList,
    /// One collection and its members.
    CollectionShow {
        /// Its name.
        name: String,
        /// Its number; none is the newest.
        number: Option<u64>,
    },
    /// Makes a version of a folder that is at the core already.
    Import {
        /// The folder; absolute.
        folder: PathBuf,
        /// The dataset.
        dataset: String,
        /// Whether files that are gone from the folder leave the next version.
        #[serde(default)]
        mode: PublishMode,
        /// What its samples are from now on; none leaves it.
        #[serde(default)]
        samples: Option<String>,
    },
    /// Makes a version of a model's file that is at the core already.
    ModelPublish {
        /// The file; absolute.
        file: PathBuf,
        /// The model.
        model: String,
    },
    /// All models.
    ModelList,
    /// A version of a model: its tensors, and where it comes from.
    ModelShow {
        /// The version.
        version: String,
    },
    /// Versions of a model, newest first.
    ModelLog {
        /// Its name.
        model: String,
        /// Most versions to list.
        limit: u64,
    },
    /// Writes a model into a file of the core's machine.
    ModelExport {
        /// The version.
        version: String,
        /// The file; absolute.
        to: PathBuf,
    },
    /// Makes a model again from its lineage, and compares.
    ModelVerify {
        /// The version.
        version: String,
    },
    /// What a round would have made without one device.
    ModelWithout {
        /// The version that it made.
        version: String,
        /// The device.
        device: String,
        /// The file that the model goes to; absolute.
        to: PathBuf,
    },
    /// Begins a federated run.
    FederationStart(Box<RunSettings>),
    /// Runs, or one run with its rounds and devices.
    FederationStatus {
        /// Which; none lists all.
        run: Option<String>,
    },
    /// The log of a run.
    FederationLog {
        /// Which.
        run: String,
    },
    /// Begins no further round of a run.
    FederationPause {
        /// Which.
        run: String,
    },
    /// Lets it go on.
    FederationResume {
        /// Which.
        run: String,
    },
    /// Ends it.
    FederationAbort {
        /// Which.
        run: String,
    },
    /// Why a run stands where it stands.
    FederationExplain {
        /// Which.
        run: String,
    },
    /// Re-reads and re-hashes what is stored.
    Verify,
    /// Frees what nothing names any more.
    Gc {
        /// Also what devices have freed their own copies of.
        last_copy: bool,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
    },
}

/// What `collection create` asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectionCreate {
    /// Its name.
    pub name: String,
    /// Dataset names that belong to it.
    pub matching: String,
    /// Labels that their writers must have.
    pub labels: BTreeMap<String, String>,
    /// Seconds between two numbers of it; none makes just one.
    pub every_s: Option<u64>,
    /// Newest numbers that are kept; 0 keeps all, none leaves it to the core.
    pub keep: Option<u64>,
}

/// What `token create` asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenCreate {
    /// How many devices may join with it.
    pub uses: u32,
    /// For how long, in seconds.
    pub lifetime_s: u64,
    /// Labels that each of them gets.
    pub labels: BTreeMap<String, String>,
    /// Names they may publish under; empty leaves it to the configuration.
    pub write: Vec<String>,
    /// Datasets they may read besides their own; empty leaves it to the configuration.
    pub read: Vec<String>,
    /// Names that devices may take, as a pattern; empty allows any.
    pub names: String,
    /// What they are to the core: `device`, `reader`, `writer`, `coordinator` or `admin`.
    pub role: String,
    /// Addresses that they dial; empty uses the configuration's.
    pub addresses: Vec<String>,
}

/// What one label of a sample has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelTerm {
    /// The field that holds it, as `.cls` or `.json`.
    pub field: String,
    /// Where it stands if the field is JSON, as `label` or `sky.rain`; none where the field is the label.
    #[serde(default)]
    pub key: Option<String>,
    /// One of these it has to be; of a list in JSON, one of its members.
    pub values: Vec<String>,
}
