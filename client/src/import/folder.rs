//! From the folder to the version that follows, and the stamps that let the next import read only what changed.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_host::scan::{Cancel, ScanOptions};
use headwater_host::version::stamp_file::StampFile;
use headwater_host::version::{
    BuildContext, BuildOptions, BuildReport, BuiltVersion, Earlier, NoChunks, NoStamps, Progress, PublishMode, build,
    standing,
};
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::tree::Tree;
use headwater_quic::work;

use super::{Before, ImportProgress, Importer};

/// What a build made.
pub(super) struct Built {
    /// The version; none if it would be the one before.
    pub(super) version: Option<BuiltVersion>,
    /// The stamps of the files, to be kept once the version is committed.
    pub(super) stamps: Option<StampFile>,
}

/// Stops the scan when nobody waits for it any more.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Importer<'_> {
    /// Builds the version that follows on `before`; its pages are among the import's when this returns.
    pub(super) async fn build(&self, before: Option<Arc<Before>>) -> Result<(Built, BuildReport), CodedError> {
        let cancel = Cancel::default();
        let _stops = CancelOnDrop(cancel.clone());
        // Who imports a folder says that it is finished; a file that changes while it is read is still noticed.
        let scan = ScanOptions { settle: Duration::ZERO, cancel, ..ScanOptions::default() };
        let options = BuildOptions { scan, origin: self.identity.name().to_owned(), ..BuildOptions::default() };
        let (folder, mode, stamps) = (self.import.folder.clone(), self.import.mode, self.stamp_file());
        let (pages, told) = (self.pages.clone(), self.told.clone());
        let work = move || {
            let earlier = before.as_deref();
            if mode == PublishMode::Mirror {
                // A disk that is not mounted leaves an empty folder in its place.
                let tree = earlier.map(|before| Tree::new(&before.manifest, &*pages));
                if let Some(suspicion) = standing(&folder, &options.scan, tree, None)?.suspicion {
                    return Err(CodedError::from(suspicion)
                        .with_hint("mount its disk; if the files are to go, `core-node dataset delete` says so"));
                }
            }
            let mut stamps = stamps.map(|path| StampFile::load(path, &folder));
            let mut none = NoStamps;
            let mut sink = &*pages;
            let context = BuildContext {
                earlier: earlier.map(|before| Earlier { id: before.id, manifest: &before.manifest, pages: &*pages }),
                stamps: stamps.as_mut().map_or(&mut none as _, |stamps| stamps as _),
                absent: &mode,
                pages: &mut sink,
                chunks: &NoChunks,
                progress: &mut |Progress { paths, bytes_read, .. }| {
                    told(ImportProgress::Reading { paths, bytes: bytes_read });
                },
            };
            let (version, report) = build(&folder, &options, context)?;
            Ok((Built { version, stamps }, report))
        };
        work::spawn_blocking(work).await.unwrap_or_else(|error| {
            Err(CodedError::new(&codes::INTERNAL, "the scan of the folder broke off").with_source(error))
        })
    }

    /// Keeps the stamps of `version`, which is committed. Where that fails, the next import reads more.
    pub(super) async fn keep(&self, stamps: Option<StampFile>, version: &Manifest) {
        let Some(stamps) = stamps else { return };
        let (pages, version) = (self.pages.clone(), version.clone());
        let work = move || {
            let leaves: HashSet<ChunkId> =
                Tree::new(&version, &*pages).leaves().filter_map(|leaf| leaf.ok().map(|leaf| leaf.child.id)).collect();
            stamps.save(&leaves);
        };
        if let Err(error) = work::spawn_blocking(work).await {
            tracing::warn!(%error, "the stamps of an import could not be kept");
        }
    }

    /// Where the stamps of this dataset are kept, one file for each dataset of each core; none without a home.
    fn stamp_file(&self) -> Option<PathBuf> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        let name = [&self.identity.fingerprint().0[..], self.name.as_str().as_bytes()].concat();
        Some(cache.join("headwater").join("stamps").join(ChunkId::of(&name).to_string()))
    }
}
