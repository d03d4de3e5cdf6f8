//! What a job reads, opened: a version or the members of a collection, held by leases while they are read.

use std::sync::{Arc, Mutex, PoisonError};

use headwater_host::error::{CodedError, codes};
use headwater_protocol::id::ID_BYTES;
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::{Following, MESSAGE_LIST_MAX, SourceMember};

use super::declared::Declared;
use super::layout::{Layout, Member};
use crate::cache::{Reader, Track};
use crate::catalog::{DatasetRecord, Edition, VersionRecord};
use crate::control::{Asker, catalog_failed, held_version, manifest_of, not_found, tree_failed};
use crate::core::Core;
use crate::samples;
use crate::serve::HeldLease;

/// Most names that are offered for one that is not known.
const NEAREST_MAX: usize = 3;
/// How alike a name must be to be offered.
const NEAREST_LIKENESS_MIN: f64 = 0.6;

/// An opened source. Its leases end, and what the cache keeps for it is idle, when it is dropped.
pub(crate) struct OpenSource {
    core: Arc<Core>,
    /// What the cache knows it as.
    pub(crate) reader: Reader,
    /// The id of the version or of the collection's edition, and of how it is read.
    pub(crate) id: [u8; ID_BYTES],
    /// Number of the version or edition.
    pub(crate) number: u64,
    /// Where its samples are.
    pub(crate) layout: Layout,
    /// The name without a version.
    pub(crate) name: String,
    leases: Vec<HeldLease>,
    declared: Mutex<Option<Arc<Declared>>>,
}

impl OpenSource {
    /// Opens what `name` stands for now and `peer` may read: a dataset's version, or a collection's edition. Blocks.
    pub(crate) fn open(core: &Arc<Core>, peer: &Peer, name: &str) -> Result<Self, CodedError> {
        let asker = Asker { who: peer.name.clone(), role: peer.role, peer: Some(peer.clone()) };
        let (plain, wanted) = name.split_once('@').unwrap_or((name, "latest"));
        let dataset = core.catalog.dataset(plain).map_err(catalog_failed)?;
        if dataset.is_some_and(|dataset| asker.may_read(core, &dataset)) {
            let (dataset, version, lease) = held_version(core, &asker, name)?;
            let number = version.summary.number;
            let member = member(core, &dataset, &version)?;
            let id = what_is_read(*version.summary.version.as_bytes(), std::slice::from_ref(&member));
            return Ok(Self::new(core, plain, (id, number), vec![member], vec![lease]));
        }
        match edition(core, &asker, plain, wanted)? {
            Some(edition) => Self::of_edition(core, &asker, name, &edition),
            None => Err(unknown(core, &asker, name)?),
        }
    }

    fn of_edition(core: &Arc<Core>, asker: &Asker, name: &str, edition: &Edition) -> Result<Self, CodedError> {
        if edition.members.len() > MESSAGE_LIST_MAX {
            let message =
                format!("`{name}` has {} members, and a job reads up to {MESSAGE_LIST_MAX}", edition.members.len());
            return Err(CodedError::new(&codes::USAGE, message).with_hint("read it in parts: make smaller collections"));
        }
        let (mut members, mut leases) = (Vec::new(), Vec::new());
        for at in &edition.members {
            let text = format!("{}@{}", at.dataset, at.number);
            let (dataset, version, lease) = held_version(core, asker, &text)?;
            members.push(member(core, &dataset, &version)?);
            leases.push(lease);
        }
        let plain = name.split_once('@').map_or(name, |(plain, _)| plain);
        let id = what_is_read(edition.id.0, &members);
        Ok(Self::new(core, plain, (id, edition.number), members, leases))
    }

    fn new(
        core: &Arc<Core>,
        name: &str,
        (id, number): ([u8; ID_BYTES], u64),
        members: Vec<Member>,
        leases: Vec<HeldLease>,
    ) -> Self {
        Self {
            core: core.clone(),
            reader: core.unique(),
            id,
            number,
            layout: Layout::new(members),
            name: name.to_owned(),
            leases,
            declared: Mutex::default(),
        }
    }

    /// Its name with its number.
    pub(crate) fn label(&self) -> String {
        format!("{}@{}", self.name, self.number)
    }

    /// What is read of it from now on, beside all others of `track`.
    pub(super) fn declare(&self, track: Track, declared: Declared) {
        let declared = Arc::new(declared);
        self.core.readers.cache.declare(self.reader, track, declared.clone());
        *self.declared.lock().unwrap_or_else(PoisonError::into_inner) = Some(declared);
    }

    /// What was declared last.
    pub(crate) fn declared(&self) -> Option<Arc<Declared>> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These samples were read, in this order.
    pub(super) fn read(&self, samples: &[u64]) {
        if let Some(declared) = self.declared() {
            declared.read(samples, self.core.readers.now());
        }
    }

    /// Something that was read was not in memory.
    pub(super) fn missed(&self) {
        if let Some(declared) = self.declared() {
            declared.missed();
        }
    }

    /// Keeps its leases alive; cheap.
    pub(crate) fn keep(&self) {
        for lease in &self.leases {
            lease.renew_if_old();
        }
    }

    /// Whether `peer` may still read all of it. Blocks.
    pub(crate) fn is_readable(&self, peer: &Peer) -> bool {
        self.layout.members().iter().all(|member| match self.core.catalog.dataset_by_id(member.dataset) {
            Ok(Some(dataset)) => self.core.rights.may_read(peer, &dataset),
            // A dataset that was deleted is read to its end under the lease.
            Ok(None) => true,
            Err(_) => false,
        })
    }

    /// Its versions, as a job is told of them.
    pub(crate) fn members(&self) -> Vec<SourceMember> {
        let told = |member: &Member| {
            let totals = member.manifest.totals();
            let version = headwater_protocol::id::VersionId::of(&member.manifest.encode());
            SourceMember {
                version: Following { dataset: member.name.clone(), number: member.number, version },
                samples: member.sampled().totals().samples,
                files: totals.files,
                bytes: totals.bytes,
            }
        };
        self.layout.members().iter().map(told).collect()
    }
}

impl Drop for OpenSource {
    fn drop(&mut self) {
        self.core.readers.cache.close(self.reader);
    }
}

fn member(core: &Core, dataset: &DatasetRecord, version: &VersionRecord) -> Result<Member, CodedError> {
    let manifests = (manifest_of(version)?, samples::index_of(core, dataset, version)?);
    Member::new(dataset.id, dataset.name.clone(), version.summary.number, manifests, &core.pages).map_err(tree_failed)
}

/// The id of what was opened as `id`: the same, unless samples are inside files. Then it is one of version and rule, so that an
/// order is never that of other samples.
fn what_is_read(id: [u8; ID_BYTES], members: &[Member]) -> [u8; ID_BYTES] {
    if members.iter().all(|member| member.index.is_none()) {
        return id;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&id);
    for index in members.iter().filter_map(|member| member.index.as_ref()) {
        hasher.update(&index.encode());
    }
    *hasher.finalize().as_bytes()
}

/// The edition that is meant, if the collection has it and all its members may be read.
fn edition(core: &Core, asker: &Asker, name: &str, wanted: &str) -> Result<Option<Edition>, CodedError> {
    let number = match wanted {
        "latest" => None,
        number => match number.parse() {
            Ok(number) => Some(number),
            Err(_) => return Ok(None),
        },
    };
    let Some(edition) = core.catalog.edition(name, number).map_err(catalog_failed)? else { return Ok(None) };
    for member in &edition.members {
        let dataset = core.catalog.dataset(&member.dataset).map_err(catalog_failed)?;
        if !dataset.is_some_and(|dataset| asker.may_read(core, &dataset)) {
            return Ok(None);
        }
    }
    Ok(Some(edition).filter(|edition| !edition.members.is_empty()))
}

/// There is nothing of this name; what is readable and like it is offered.
fn unknown(core: &Core, asker: &Asker, name: &str) -> Result<CodedError, CodedError> {
    let (plain, _) = name.split_once('@').unwrap_or((name, ""));
    let datasets = core.catalog.datasets().map_err(catalog_failed)?;
    let mut near: Vec<(f64, String)> = datasets
        .into_iter()
        .filter(|dataset| asker.may_read(core, dataset))
        .map(|dataset| (strsim::jaro_winkler(plain, &dataset.name), dataset.name))
        .filter(|(likeness, _)| *likeness >= NEAREST_LIKENESS_MIN)
        .collect();
    near.sort_by(|left, right| right.0.total_cmp(&left.0).then_with(|| left.1.cmp(&right.1)));
    let near: Vec<_> = near.into_iter().take(NEAREST_MAX).map(|(_, name)| format!("`{name}`")).collect();
    let error = not_found("dataset or collection", name);
    Ok(if near.is_empty() { error } else { error.with_hint(format!("did you mean {}?", near.join(" or "))) })
}
