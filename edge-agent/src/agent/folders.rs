//! The folders and subscriptions in force: what settings say, with names filled in for this device.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::commit::Durability;
use headwater_protocol::name::{DatasetName, NameContext, NamePattern, NameTemplate};

use super::Agent;
use crate::catalog::{CatalogError, DatasetRow, EventLevel, Role};
use crate::device::Device;
use crate::session::subscribe::folder_of;
use crate::settings::{
    KEEP_VERSIONS, LocalSettings, Mode, PublishOptions, PublishSettings, SCAN_EVERY, Settings, SubscribeSettings,
    is_in, overlap,
};
use crate::storage::quota::Limits;

/// A folder that is scanned.
#[derive(Clone, Debug, PartialEq)]
pub struct Folder {
    /// The dataset's name.
    pub dataset: DatasetName,
    /// The folder.
    pub path: PathBuf,
    /// Published or local.
    pub role: Role,
    /// What happens to deleted files.
    pub mode: Mode,
    /// Time between two scans.
    pub every: Duration,
    /// It goes before everything else.
    pub urgent: bool,
    /// What it may hold.
    pub limits: Limits,
    /// How well the core must keep what is freed for these.
    pub durability: Durability,
    /// The agent itself wrote it, and writes nothing more into it: its files need no time to settle.
    pub is_own: bool,
}

impl Folder {
    fn new(dataset: DatasetName, path: &Path, role: Role) -> Self {
        Self {
            dataset,
            path: path.to_owned(),
            role,
            mode: Mode::Mirror,
            every: SCAN_EVERY,
            urgent: false,
            limits: Limits::default(),
            durability: Durability::LocalDisk,
            is_own: false,
        }
    }
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// A dataset's or collection's name, or a pattern.
    pub name: String,
    /// The folder of the dataset, or, of a pattern or a collection, the one in which each dataset gets one of its own.
    pub to: PathBuf,
    /// Versions that stay.
    pub keep: u32,
}

impl Agent {
    /// The folders that are scanned. Those whose name can't be filled in yet are left out: their errors come second.
    pub fn folders(&self) -> (Vec<Folder>, Vec<(String, CodedError)>) {
        let settings = self.settings();
        let device = self.device();
        let context = device.as_ref().map_or(NameContext { device: "", labels: &[] }, |device| device.name_context());
        let mut folders = Vec::new();
        let mut problems = Vec::new();
        let mut name = |template: &NameTemplate| match template.expand(&context) {
            Ok(dataset) => Some(dataset),
            Err(_) if device.is_none() => {
                let message = format!("`{template}` gets its name when this device has joined a core");
                problems.push((template.as_str().to_owned(), CodedError::new(&codes::NOT_JOINED, message)));
                None
            }
            Err(error) => {
                let error = CodedError::new(&codes::NAME_INVALID, error.to_string());
                problems.push((template.as_str().to_owned(), error));
                None
            }
        };
        for entry in &settings.publish {
            folders.extend(name(&entry.dataset).map(|dataset| Folder {
                mode: entry.mode,
                every: entry.every.0,
                urgent: entry.urgent,
                limits: entry.limits(),
                durability: entry.durability,
                ..Folder::new(dataset, &entry.folder, Role::Publish)
            }));
        }
        for entry in &settings.local {
            folders.extend(name(&entry.dataset).map(|dataset| Folder::new(dataset, &entry.folder, Role::Local)));
        }
        if let Some(device) = &device {
            let updates = self.training().updates(&self.data, &device.card.name);
            folders.extend(updates.into_iter().map(|(dataset, folder)| Folder {
                urgent: true,
                is_own: true,
                ..Folder::new(dataset, &folder, Role::Publish)
            }));
        }
        (folders, problems)
    }

    /// The folder of this dataset.
    pub fn folder(&self, dataset: &str) -> Result<Folder, CodedError> {
        let templates = self.settings();
        let by_template = |folder: &Folder| {
            templates
                .publish
                .iter()
                .map(|entry| (&entry.dataset, &entry.folder))
                .chain(templates.local.iter().map(|entry| (&entry.dataset, &entry.folder)))
                .any(|(template, path)| template.as_str() == dataset && *path == folder.path)
        };
        let (folders, _) = self.folders();
        folders.into_iter().find(|folder| folder.dataset.as_str() == dataset || by_template(folder)).ok_or_else(|| {
            CodedError::new(&codes::NOT_FOUND, format!("this device has no folder for the dataset `{dataset}`"))
                .with_hint("see `edge-agent status` for its datasets")
        })
    }

    /// The subscriptions.
    pub fn subscriptions(&self) -> Vec<Subscription> {
        let settings = self.settings();
        let subscription = |entry: &SubscribeSettings| Subscription {
            name: entry.dataset.clone(),
            to: entry.to.clone(),
            keep: entry.keep,
        };
        settings.subscribe.iter().map(subscription).collect()
    }

    /// Whether the settings have this dataset of the catalog. What was removed from them stays in the catalog, so that it
    /// goes on where it was if it comes back; until then it must count for nothing: its folder may be a local one now.
    pub fn has(&self, row: &DatasetRow) -> bool {
        match row.role {
            Role::Subscribe => {
                let device = self.device();
                let unjoined = NameContext { device: "", labels: &[] };
                let context = device.as_ref().map_or(unjoined, |device| device.name_context());
                let goes_there = |subscription: &Subscription| matches!(folder_of(subscription, &row.name, &context), Some(Ok(folder)) if folder == row.folder);
                self.subscriptions().iter().any(goes_there)
                    || self.training().fetches(&self.data, &row.name, &row.folder)
            }
            Role::Publish | Role::Local => {
                let is_this = |folder: &Folder| {
                    folder.role == row.role && folder.path == row.folder && folder.dataset.as_str() == row.name
                };
                self.folders().0.iter().any(is_this)
            }
        }
    }

    /// The catalog's datasets that the settings have.
    pub fn datasets(&self) -> Result<Vec<DatasetRow>, CatalogError> {
        let mut rows = self.catalog().datasets()?;
        rows.retain(|row| self.has(row));
        Ok(rows)
    }

    /// Publishes a folder from now on. One that is published under this name already keeps what `options` leave out.
    pub fn add_publish(
        &self,
        folder: PathBuf,
        dataset: NameTemplate,
        options: &PublishOptions,
    ) -> Result<(), CodedError> {
        self.check_folder(&folder)?;
        self.check_name(&dataset, &folder)?;
        self.change_added(|added| {
            let known = added.publish.iter().find(|known| known.dataset == dataset && known.folder == folder).cloned();
            added.publish.retain(|known| known.dataset != dataset);
            added.publish.push(known.unwrap_or_else(|| PublishSettings::new(folder, dataset)).with(options));
            Ok(())
        })
    }

    /// Versions a folder for this device alone from now on.
    pub fn add_local(&self, folder: PathBuf, dataset: &str) -> Result<(), CodedError> {
        let dataset = template(dataset)?;
        self.check_folder(&folder)?;
        self.check_name(&dataset, &folder)?;
        let entry = LocalSettings { folder, dataset };
        self.change_added(|added| {
            added.local.retain(|known| known.dataset != entry.dataset);
            added.local.push(entry.clone());
            Ok(())
        })
    }

    /// Subscribes from now on.
    pub fn add_subscribe(&self, dataset: &str, to: PathBuf, keep: Option<u32>) -> Result<(), CodedError> {
        NamePattern::new(dataset).map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))?;
        if overlap(&to, &self.data) {
            return Err(unsuitable(&to, "it overlaps the agent's data folder"));
        }
        let entry = SubscribeSettings { dataset: dataset.to_owned(), to, keep: keep.unwrap_or(KEEP_VERSIONS) };
        self.change_added(|added| {
            added.subscribe.retain(|known| known.dataset != entry.dataset);
            added.subscribe.push(entry.clone());
            Ok(())
        })
    }

    /// Stops publishing, keeping or subscribing. Files stay.
    pub fn remove(&self, name: &str) -> Result<(), CodedError> {
        let device = self.device();
        let is_named = |template: &NameTemplate| stands_for(template, device.as_deref(), name);
        let mut removed = false;
        self.change_added(|added| {
            let before = added.publish.len() + added.subscribe.len() + added.local.len();
            added.publish.retain(|known| !is_named(&known.dataset));
            added.local.retain(|known| !is_named(&known.dataset));
            added.subscribe.retain(|known| known.dataset != name);
            removed = added.publish.len() + added.subscribe.len() + added.local.len() < before;
            if removed { Ok(()) } else { Err(self.not_removable(name, is_named)) }
        })?;
        self.forget_signs_of_removed();
        self.note(EventLevel::Info, "", name, "removed; its files stay");
        Ok(())
    }

    fn not_removable(&self, name: &str, is_named: impl Fn(&NameTemplate) -> bool) -> CodedError {
        let settings = self.settings();
        let written = settings.publish.iter().any(|entry| is_named(&entry.dataset))
            || settings.local.iter().any(|entry| is_named(&entry.dataset))
            || settings.subscribe.iter().any(|entry| entry.dataset == name);
        if written {
            CodedError::new(&codes::NOT_FOUND, format!("`{name}` stands in the settings file, which is yours to edit"))
                .with_hint("remove it there; the daemon reads the file again at its next start")
        } else {
            CodedError::new(&codes::NOT_FOUND, format!("there is no dataset or subscription `{name}` here"))
                .with_hint("see `edge-agent status`")
        }
    }

    /// A name that another folder has already, or that this device can't fill in, would be found out only at the next scan.
    fn check_name(&self, template: &NameTemplate, folder: &Path) -> Result<(), CodedError> {
        let Some(device) = self.device() else { return Ok(()) };
        let dataset = template.expand(&device.name_context()).map_err(|error| {
            let error = CodedError::new(&codes::NAME_INVALID, error.to_string());
            error.with_hint("a device gets its labels with its token; `edge-agent status` shows them")
        })?;
        let settings = self.settings();
        let known = |other: &NameTemplate, path: &Path| {
            other != template && path != folder && stands_for(other, Some(&device), dataset.as_str())
        };
        let other = settings.publish.iter().map(|entry| (&entry.dataset, &entry.folder));
        let mut other = other.chain(settings.local.iter().map(|entry| (&entry.dataset, &entry.folder)));
        match other.find(|(other, path)| known(other, path)) {
            None => Ok(()),
            Some((_, path)) => {
                let message = format!("`{dataset}` is the dataset of the folder `{}` already", path.display());
                Err(CodedError::new(&codes::NAME_INVALID, message)
                    .with_hint("a dataset has one folder: take another name, or remove the other first"))
            }
        }
    }

    fn check_folder(&self, folder: &Path) -> Result<(), CodedError> {
        if !folder.is_dir() {
            return Err(CodedError::new(&codes::FOLDER_MISSING, format!("`{}` is no folder", folder.display())));
        }
        if is_in(folder, &self.data) {
            return Err(unsuitable(folder, "it lies in the agent's data folder"));
        }
        Ok(())
    }

    /// Changes the folders that commands added: checked together with the person's settings, durable, then in force.
    fn change_added(&self, change: impl FnOnce(&mut Settings) -> Result<(), CodedError>) -> Result<(), CodedError> {
        let _one_at_a_time = super::lock(&self.added);
        let mut added = Settings::added(&self.data)?;
        let before = added.clone();
        change(&mut added)?;
        added.save_added(&self.data)?;
        match Settings::load(&self.data, self.config.as_deref()) {
            Ok(settings) => {
                self.set_settings(settings);
                Ok(())
            }
            Err(error) => {
                before.save_added(&self.data)?;
                Err(error)
            }
        }
    }
}

/// Whether a template is written like this name, or stands for it on this device.
fn stands_for(template: &NameTemplate, device: Option<&Device>, name: &str) -> bool {
    let expanded = device.and_then(|device| template.expand(&device.name_context()).ok());
    template.as_str() == name || expanded.is_some_and(|dataset| dataset.as_str() == name)
}

fn template(text: &str) -> Result<NameTemplate, CodedError> {
    NameTemplate::new(text).map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))
}

fn unsuitable(path: &std::path::Path, why: &str) -> CodedError {
    CodedError::new(&codes::PATH_UNSUITABLE, format!("`{}` can't be used: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_at_the_same_time_all_count() {
        const COMMANDS: usize = 12;
        let root = tempfile::tempdir().expect("a folder");
        let agent = Agent::open(root.path(), None).expect("opened");
        std::thread::scope(|scope| {
            for number in 0..COMMANDS {
                let agent = &agent;
                let to = std::env::temp_dir().join(format!("headwater-of-no-use-{number}"));
                scope.spawn(move || agent.add_subscribe(&format!("models/{number}"), to, None).expect("added"));
            }
        });
        assert_eq!(Settings::added(root.path()).expect("read").subscribe.len(), COMMANDS);
        assert_eq!(agent.subscriptions().len(), COMMANDS);
    }
}
