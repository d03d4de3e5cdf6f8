//! The data folder of a core: making one, and opening one.
//!
//! ```text
//! DIR/core.toml        configuration
//! DIR/authority.*      the certificate authority: without its key no device ever joins again
//! DIR/identity.*       the core's own key and certificate
//! DIR/catalog.db       the catalog
//! DIR/packs/           chunks
//! DIR/prefixes/        unfinished chunks; may be deleted at any time
//! DIR/address          where a running daemon listens
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_host::durable::{self, PRIVATE_FOLDER_MODE};
use headwater_host::error::{CodedError, codes};
use headwater_host::lock::DataFolderLock;
use headwater_quic::{Authority, Identity, IdentityError};

use crate::catalog::{Catalog, CatalogError, SqliteCatalog};
use crate::config::Config;
use crate::control::catalog_failed;
use crate::core::{Core, CoreParts, Keys};
use crate::rights::Rights;
use crate::store::{ChunkStore, ChunkStoreOptions, LocalPacks, OpenStoreError, PackError};

/// Holds the address on which a running daemon listens.
pub const ADDRESS_FILE: &str = "address";
/// The catalog.
const CATALOG_FILE: &str = "catalog.db";
/// The packs.
const PACK_FOLDER: &str = "packs";
/// What shows that a folder holds a core.
const AUTHORITY_FILE: &str = "authority.crt";

/// What a new core is made with.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The data folder; it need not exist.
    pub folder: PathBuf,
    /// The configuration file that is written, unless there is one.
    pub config_file: PathBuf,
    /// The core's name.
    pub name: String,
    /// Lines for the configuration file besides the name.
    pub settings: Vec<(String, String)>,
}

/// Makes a new core. Blocks.
pub fn init(options: &InitOptions) -> Result<(), CodedError> {
    let InitOptions { folder, config_file, name, settings } = options;
    let failed = |error| CodedError::io(&codes::WRITE_FAILED, format!("can't make `{}`", folder.display()), error);
    headwater_protocol::name::check_device_name(name)
        .map_err(|error| CodedError::new(&codes::USAGE, error.to_string()))?;
    durable::create_folder(folder, PRIVATE_FOLDER_MODE).map_err(failed)?;
    let _lock = DataFolderLock::acquire(folder)?;
    if folder.join(AUTHORITY_FILE).exists() {
        return Err(CodedError::new(&codes::ALREADY_EXISTS, format!("`{}` holds a core already", folder.display()))
            .with_hint("start it with `core-node run`, or make the new one in another folder"));
    }
    open_catalog(folder)?;
    open_packs(folder)?;
    if !config_file.exists() {
        durable::write_atomic(config_file, template(name, settings).as_bytes(), 0o644).map_err(|error| {
            CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", config_file.display()), error)
        })?;
    }
    // The authority comes last but for the identity, which every start makes where it is missing.
    let authority =
        Authority::create(folder, &format!("{name} authority")).map_err(|error| identity_failed(folder, error))?;
    authority.core_identity(folder, name).map_err(|error| identity_failed(folder, error))?;
    Ok(())
}

/// Opens the core in `folder`, whose lock the caller holds: recovers what a crash left, renews its certificate. Blocks.
pub fn open(folder: PathBuf, config: Config) -> Result<Arc<Core>, CodedError> {
    if !folder.join(AUTHORITY_FILE).exists() {
        return Err(CodedError::new(&codes::NOT_INITIALISED, format!("`{}` holds no core", folder.display()))
            .with_hint(format!("make one: `core-node --data {} init`", folder.display())));
    }
    let rights = Rights::new(&config).map_err(|error| CodedError::new(&codes::CONFIG_INVALID, error.to_string()))?;
    let authority = Authority::load(&folder).map_err(|error| identity_failed(&folder, error))?;
    let identity: Identity =
        authority.core_identity(&folder, &config.name).map_err(|error| identity_failed(&folder, error))?;
    let catalog: Arc<dyn Catalog> = Arc::new(open_catalog(&folder)?);
    let packs = Arc::new(open_packs(&folder)?);
    let options = ChunkStoreOptions { pack_bytes_max: config.store.pack_size.0, ..ChunkStoreOptions::default() };
    let (store, recovered) =
        ChunkStore::open(packs, catalog.clone(), options).map_err(|error| store_failed(&folder, error))?;
    if recovered != crate::store::RecoveryReport::default() {
        tracing::info!(?recovered, "the store was mended after an unclean end");
    }
    if recovered.damaged_bytes > 0 {
        tracing::warn!(
            bytes = recovered.damaged_bytes,
            "packs hold damaged records; they are passed over, and the whole ones behind them are entered"
        );
    }
    Ok(Core::new(CoreParts {
        folder,
        config,
        rights,
        keys: Keys { authority, identity },
        catalog,
        store: Arc::new(store),
    }))
}

fn open_catalog(folder: &Path) -> Result<SqliteCatalog, CodedError> {
    let path = folder.join(CATALOG_FILE);
    SqliteCatalog::open(&path).map_err(|error| match error {
        newer @ CatalogError::Newer { .. } => {
            CodedError::new(&codes::CATALOG_TOO_NEW, format!("`{}` was written by a newer release", path.display()))
                .with_source(newer)
        }
        other => catalog_failed(other),
    })
}

fn open_packs(folder: &Path) -> Result<LocalPacks, CodedError> {
    let packs = folder.join(PACK_FOLDER);
    LocalPacks::open(&packs)
        .map_err(|error| CodedError::io(&codes::READ_FAILED, format!("`{}` can't be opened", packs.display()), error))
}

fn pack_failed(error: PackError) -> CodedError {
    let code = match &error {
        PackError::Full { .. } => &codes::DISK_FULL,
        PackError::NotFound { .. } | PackError::Short { .. } => &codes::PACK_DAMAGED,
        PackError::Io { .. } => &codes::READ_FAILED,
    };
    CodedError::new(code, "the packs can't be opened").with_source(error)
}

fn store_failed(folder: &Path, error: OpenStoreError) -> CodedError {
    match error {
        OpenStoreError::Newer { .. } => CodedError::new(
            &codes::CATALOG_TOO_NEW,
            format!("the packs in `{}` are from a newer release", folder.display()),
        )
        .with_source(error),
        OpenStoreError::Packs(error) => pack_failed(error),
        OpenStoreError::Catalog(error) => catalog_failed(error),
        OpenStoreError::Thread(error) => {
            CodedError::new(&codes::INTERNAL, "the store's writer can't be started").with_source(error)
        }
    }
}

fn identity_failed(folder: &Path, error: IdentityError) -> CodedError {
    let hint = match &error {
        IdentityError::KeyIsOpen { path, .. } => format!("close it to others: `chmod 600 {}`", path.display()),
        _ => format!("restore the files authority.* and identity.* in `{}` from a backup", folder.display()),
    };
    CodedError::new(&codes::IDENTITY_UNUSABLE, "the core's keys can't be used").with_hint(hint).with_source(error)
}

/// The first configuration: what was asked for, and what else there is as comments.
fn template(name: &str, settings: &[(String, String)]) -> String {
    use std::fmt::Write;
    let mut text =
        format!("# Configuration of a Headwater core. `core-node config check` finds mistakes.\n\nname = \"{name}\"\n");
    for (key, value) in settings {
        // Writing into a string can't fail.
        let _ = writeln!(text, "{key} = \"{value}\"");
    }
    text.push_str(TEMPLATE_REST);
    text
}

const TEMPLATE_REST: &str = r#"
# listen = "0.0.0.0:4733"            # UDP, for devices and jobs, and TCP, for what jobs read
# admin_listen = "127.0.0.1:4734"    # TCP, for /metrics and the status page
# admin = true                       # false: neither metrics nor status page
# addresses = ["core.example:4733"]  # what tokens tell devices to dial
# log = "info"                       # as in `debug` or `core_node=debug`
# log_json = false                   # true: one JSON object a line

# [network]
# congestion = "bdp"                 # or cubic, newreno, bbr
# idle_timeout = "60s"
# hello_timeout = "20s"              # how long a new connection may take to say hello
# sessions_max = 20000
# mtu_max = 1452                     # largest UDP payload to discover, in bytes

# [memory]
# transfers = "96MiB"                # all devices' bytes on their way to the disk
# pages = "16MiB"                    # decoded pages that are kept at hand
# cache = "256MiB"                   # chunks that are kept at hand for training jobs; taken when the first one reads
# plans = "64MiB"                    # what is known of samples that jobs read, about 80 bytes a file

# [serving]
# trusted_network = false            # true: what training jobs read is not encrypted on its way, only verified
# job_grace = "1h"                   # how long after a job's end its names stand for the same versions

# [serving.rdma]                     # for a core that was built with RDMA, in a trusted network
# enabled = true
# device = "mlx5_0"                  # by default the first with an active port; `port` and `gid_index` likewise
# traffic_class = 0                  # DSCP in its upper six bits, as the network's lossless class wants it
# service_level = 0
# timeout = 14                       # of an acknowledgement: 4.096 us * 2^14 = 67 ms
# retries = 6
# spin_us = 0                        # look for completions so long before sleeping

# [proofs]
# lifetime = "336h"                  # how long an upload that no version names yet is kept
# prefixes = "32MiB"                 # unfinished chunks that are kept for one device

# [store]
# pack_size = "256MiB"               # a file of the store; small ones free disk sooner

# [retention]
# keep_last = 0                      # newest versions to keep of each dataset; 0 keeps all
# keep_days = 0

# [certificates]
# lifetime = "365d"                  # a device gets a new one at a session when this one ends soon, or has ended

# [federation]
# updates_keep = 100                 # newest updates to keep of each device and run, for `model verify`; or "all", or "none" once
#                                    # they are in a model

# [gc]
# every = "24h"

# What a device may do when neither its token nor a rule says so.
# [defaults]
# write = ["**"]
# read = []

# Rights for devices with these labels; names may hold {device} and {label.KEY}.
# [[rules]]
# labels = { site = "berlin" }
# write = ["berlin/{device}/**"]
# read = ["models/**"]
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_configuration_and_so_are_its_comments() {
        let text = template("core", &[("listen".into(), "127.0.0.1:1".into())]);
        let config: Config = toml::from_str(&text).expect("valid");
        assert_eq!(config.listen.port(), 1);
        let uncommented: String = TEMPLATE_REST
            .lines()
            .map(|line| {
                line.strip_prefix("# ").filter(|rest| rest.contains('=') || rest.starts_with('[')).unwrap_or("")
            })
            .fold(String::new(), |text, line| text + line + "\n");
        let config: Config = toml::from_str(&uncommented).expect("valid");
        assert_eq!(config.rules.len(), 1);
    }

    #[test]
    fn the_template_shows_every_setting() {
        let toml::Value::Table(all) = toml::Value::try_from(Config::default()).expect("it serializes") else {
            panic!("a configuration is a table");
        };
        for (key, value) in all.iter().filter(|(key, _)| *key != "name") {
            match value {
                toml::Value::Table(section) => {
                    let (_, shown) = TEMPLATE_REST.split_once(&format!("# [{key}]")).expect(key);
                    let shown = shown.split("\n\n").next().expect("there is a first part");
                    for (inner, value) in section {
                        let is_shown = match value {
                            toml::Value::Table(_) => TEMPLATE_REST.contains(&format!("\n# [{key}.{inner}]")),
                            _ => shown.contains(&format!("\n# {inner} = ")),
                        };
                        assert!(is_shown, "[{key}] does not show {inner}:{shown}");
                    }
                }
                toml::Value::Array(_) if key == "rules" => assert!(TEMPLATE_REST.contains("# [[rules]]")),
                _ => assert!(TEMPLATE_REST.contains(&format!("\n# {key} = ")), "{key} is not shown"),
            }
        }
    }
}
