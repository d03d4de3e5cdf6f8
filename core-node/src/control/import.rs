//! Import: a folder on the core's own machine becomes a version, with the core as its writer.
//!
//! The folder is scanned as an agent would scan it; chunks and pages go straight into the store, under a proof of the core's
//! own, and the commit is the same as a device's but for its author.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_host::error::{CodedError, codes};
use headwater_host::scan::ScanOptions;
use headwater_host::version::stamp_file::StampFile;
use headwater_host::version::{
    BuildContext, BuildOptions, BuildReport, BuiltVersion, Earlier, NoStamps, PublishMode, StatCache, build,
};
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::name::DatasetName;
use headwater_protocol::samples::Rule;
use headwater_protocol::tree::Tree;
use serde_json::{Value, json};

use super::Progress;
use super::handler::{Emitter, catalog_failed};
use crate::catalog::{Principal, Scope};
use crate::core::Core;
use crate::ingest::{StoreSink, create, enter, second_writer};
use crate::samples;

/// The folder in the data folder with a stamp file for each imported dataset.
const STAMPS_FOLDER: &str = "stamps";

pub(super) fn import(
    core: &Arc<Core>,
    folder: &Path,
    name: &str,
    mode: PublishMode,
    rule: Option<&Rule>,
    out: &Emitter,
) -> Result<(), CodedError> {
    let dataset_name =
        DatasetName::new(name).map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))?;
    check_folder(core, folder)?;
    let earlier = earlier(core, name)?;
    let progress = |progress| out.progress(progress);
    let work = Import { core, folder, mode, sink: StoreSink::new(core), progress: &progress };
    let stamps = core.folder.join(STAMPS_FOLDER).join(ChunkId::of(name.as_bytes()).to_string());
    let mut stamps = StampFile::load(stamps, folder);
    if earlier.is_some() && !core.catalog.damaged().map_err(catalog_failed)?.is_empty() {
        // All of the folder is cut anew, so that what is damaged in the store is stored again. The version that this
        // makes is not needed.
        work.build(None, &mut NoStamps)?;
    }
    let (built, report) = work.build(earlier.as_ref(), &mut stamps)?;
    let last = earlier.as_ref().map_or(0, |(number, ..)| *number);
    let (mut fields, left_out) = (report.import_fields(), report.left_out());
    fields["dataset"] = json!(name);
    let Some(built) = built else {
        if let Some((.., manifest)) = &earlier {
            stamps.save(&leaves(core, manifest));
        }
        fields["number"] = json!(last);
        read_as(core, name, rule, &mut fields)?;
        return out.done(format!("`{name}@{last}` is as the folder is: nothing changed{left_out}"), fields);
    };
    let number = commit(core, &dataset_name, built.body, &built.manifest)?;
    stamps.save(&leaves(core, &built.manifest));
    let totals = built.manifest.totals();
    fields["number"] = json!(number);
    fields["version"] = json!(built.id.to_string());
    fields["files"] = json!(totals.files);
    fields["bytes"] = json!(totals.bytes);
    tracing::info!(dataset = name, number, files = totals.files, bytes = totals.bytes, "imported");
    read_as(core, name, rule, &mut fields)?;
    out.done(format!("`{name}@{number}` has {} files of {} bytes{left_out}", totals.files, totals.bytes), fields)
}

/// Notes what the samples of a dataset are, if that was said, and finds those of its newest version.
fn read_as(core: &Arc<Core>, name: &str, rule: Option<&Rule>, fields: &mut Value) -> Result<(), CodedError> {
    let Some(dataset) = core.catalog.dataset(name).map_err(catalog_failed)? else { return Ok(()) };
    if let Some(rule) = rule {
        samples::set_rule(core, dataset.id, rule)?;
    }
    let Some(head) = dataset.head else { return Ok(()) };
    let Some(version) = core.catalog.version(dataset.id, head.number).map_err(catalog_failed)? else { return Ok(()) };
    if let Some(index) = samples::index_of(core, &dataset, &version)? {
        fields["samples"] = json!(index.totals().samples);
    }
    Ok(())
}

/// The newest version of `name`, if the core is its writer: its number, id and manifest.
fn earlier(core: &Core, name: &str) -> Result<Option<(u64, VersionId, Manifest)>, CodedError> {
    let Some(dataset) = core.catalog.dataset(name).map_err(catalog_failed)? else { return Ok(None) };
    if dataset.writer != Principal::Core {
        return Err(second_writer(core, &dataset).into());
    }
    let Some(head) = dataset.head else { return Ok(None) };
    let version = core.catalog.version(dataset.id, head.number).map_err(catalog_failed)?;
    let manifest = version.as_ref().map(super::datasets::manifest_of).transpose()?;
    Ok(manifest.map(|manifest| (head.number, head.version, manifest)))
}

/// One folder on its way into the store.
struct Import<'a> {
    core: &'a Core,
    folder: &'a Path,
    mode: PublishMode,
    sink: StoreSink<'a>,
    progress: &'a dyn Fn(Progress),
}

impl Import<'_> {
    /// Builds the version that follows `earlier`; all of it is stored when this returns.
    fn build(
        &self,
        earlier: Option<&(u64, VersionId, Manifest)>,
        stamps: &mut dyn StatCache,
    ) -> Result<(Option<BuiltVersion>, BuildReport), CodedError> {
        // Who imports a folder says that it is finished; a file that changes while it is read is still noticed.
        let scan = ScanOptions { settle: Duration::ZERO, ..ScanOptions::default() };
        let options = BuildOptions { scan, origin: self.core.config.name.clone(), ..BuildOptions::default() };
        let mut pages = &self.sink;
        let built = build(
            self.folder,
            &options,
            BuildContext {
                earlier: earlier.map(|(_, id, manifest)| Earlier { id: *id, manifest, pages: &self.core.pages }),
                stamps,
                absent: &self.mode,
                pages: &mut pages,
                chunks: &self.sink,
                progress: &mut |progress| {
                    (self.progress)(Progress {
                        what: format!("importing {}", self.folder.display()),
                        files: progress.paths,
                        bytes: progress.bytes_read,
                        bytes_total: 0,
                    });
                },
            },
        )?;
        self.sink.flush().map_err(|error| {
            CodedError::new(&codes::WRITE_FAILED, "the folder's chunks can't be stored").with_source(error)
        })?;
        Ok(built)
    }
}

/// The leaf pages of a version; none where they can't be read, which costs the next import some reading.
fn leaves(core: &Core, manifest: &Manifest) -> HashSet<ChunkId> {
    Tree::new(manifest, &core.pages).leaves().filter_map(|leaf| leaf.ok().map(|leaf| leaf.child.id)).collect()
}

/// The version that a folder of the core's own making has become.
pub(crate) struct CommittedFolder {
    /// Its number.
    pub(crate) number: u64,
    /// Its id.
    pub(crate) version: VersionId,
}

/// Makes a version of a folder that the core has written itself; other files of the version before stay.
pub(crate) fn commit_folder(core: &Core, folder: &Path, name: &DatasetName) -> Result<CommittedFolder, CodedError> {
    let earlier = earlier(core, name.as_str())?;
    let work = Import { core, folder, mode: PublishMode::Append, sink: StoreSink::new(core), progress: &|_| {} };
    let (built, _) = work.build(earlier.as_ref(), &mut NoStamps)?;
    match (built, earlier) {
        (Some(built), _) => {
            let (id, number) = (built.id, commit(core, name, built.body, &built.manifest)?);
            Ok(CommittedFolder { number, version: id })
        }
        (None, Some((number, version, _))) => Ok(CommittedFolder { number, version }),
        (None, None) => Err(CodedError::new(&codes::FOLDER_MISSING, format!("`{}` is empty", folder.display()))),
    }
}

/// Commits a version under the next number; a deleted dataset's numbers go on.
fn commit(core: &Core, name: &DatasetName, body: Vec<u8>, manifest: &Manifest) -> Result<u64, CodedError> {
    let number = core.catalog.last_number(name.as_str()).map_err(catalog_failed)? + 1;
    let identity = &core.keys.identity;
    let record =
        CommitRecord::sign_as_author(name, number, Manifest::id_of(&body), identity, identity.certificate().to_vec())
            .countersign(identity, identity.certificate().to_vec());
    let dataset = create(core, name.as_str(), Principal::Core)?;
    enter(core, &dataset, &record, &Bytes::from(body), manifest, &Scope::everything())?;
    Ok(number)
}

fn check_folder(core: &Core, folder: &Path) -> Result<(), CodedError> {
    if !folder.is_dir() {
        return Err(CodedError::new(&codes::FOLDER_MISSING, format!("`{}` is no folder", folder.display()))
            .with_hint("give the path of a folder on the core's own machine"));
    }
    let real = |path: &Path| -> PathBuf { path.canonicalize().unwrap_or_else(|_| path.to_owned()) };
    if real(folder).starts_with(real(&core.folder)) || real(&core.folder).starts_with(real(folder)) {
        return Err(CodedError::new(
            &codes::PATH_UNSUITABLE,
            format!("`{}` and the core's data folder lie in each other", folder.display()),
        ));
    }
    Ok(())
}
