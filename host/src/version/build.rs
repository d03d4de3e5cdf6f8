//! Building the next version of a folder.

use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bytes::Bytes;
use headwater_protocol::chunking::{CHUNK_BYTES_MAX, ChunkerParams, GroupingParams};
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::path::RelPath;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::tree::{
    BuildError, EditError, PageSink, PageSource, SharedSink, SinkError, Tree, TreeBuilder, TreeError, edit,
};

use super::Absent;
use super::merge::{Merge, MergeContext};
use super::report::{BuildReport, Progress};
use super::stamps::{StampBook, StampingSink, StatCache, StatCacheError};
use crate::beneath;
use crate::error::{CodedError, codes};
use crate::scan::read::{ReadContext, ReadPool};
use crate::scan::walk::WalkError;
use crate::scan::{Cancelled, ScanOptions};

/// Takes the bytes of chunks that a build cuts: those of large files from several threads while they are read, and those
/// that small files share when these are put together. Chunks that the earlier version had may come again.
pub trait ChunkSink: Sync {
    /// Takes a chunk.
    fn put_chunk(&self, chunk: ChunkRef, bytes: &[u8]) -> Result<(), SinkError>;
}

/// For those who need no bytes: they stay in the folder's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoChunks;

impl ChunkSink for NoChunks {
    fn put_chunk(&self, _chunk: ChunkRef, _bytes: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }
}

/// The version that the new one follows.
#[derive(Clone, Copy)]
pub struct Earlier<'a> {
    /// Its id.
    pub id: VersionId,
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// Where its pages are.
    pub pages: &'a dyn PageSource,
}

/// How to build.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// How to look at the folder.
    pub scan: ScanOptions,
    /// How the first version is cut; later ones keep the parameters of their parent.
    pub chunker: ChunkerParams,
    /// Likewise.
    pub grouping: GroupingParams,
    /// Who builds.
    pub origin: String,
    /// What the publisher says of the version, sorted by key.
    pub metadata: Vec<(String, String)>,
    /// After about this many bytes read the rest is left for the next version, so that a large first scan commits growing
    /// versions.
    pub read_bytes_max: Option<u64>,
}

/// Why a version can't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildVersionError {
    /// The folder can't be listed.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// It was stopped.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The earlier version can't be read.
    #[error("the earlier version can't be read: {0}")]
    Earlier(#[from] TreeError),
    /// The new one can't be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The stat cache failed.
    #[error(transparent)]
    Stamps(#[from] StatCacheError),
    /// A chunk could not be taken.
    #[error("a chunk could not be stored: {0}")]
    Chunk(#[source] SinkError),
}

impl From<EditError> for BuildVersionError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Read(error) => Self::Earlier(error),
            EditError::Build(error) => Self::Build(error),
        }
    }
}

impl From<BuildVersionError> for CodedError {
    fn from(error: BuildVersionError) -> Self {
        let code = match &error {
            BuildVersionError::Walk(WalkError::Missing { .. }) => &codes::FOLDER_MISSING,
            BuildVersionError::Walk(WalkError::Unreadable { .. }) => &codes::FOLDER_UNREADABLE,
            BuildVersionError::Walk(WalkError::Excluded { .. }) => &codes::PATH_UNSUITABLE,
            BuildVersionError::Walk(WalkError::Cancelled(_)) | BuildVersionError::Cancelled(_) => &codes::SESSION_ENDED,
            _ if is_disk_full(&error) => &codes::DISK_FULL,
            _ => &codes::CATALOG_FAILED,
        };
        Self::new(code, error.to_string())
    }
}

/// Whether a full disk is among the causes of `error`.
pub(crate) fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A new version of a folder. Its pages are in the sink already.
#[derive(Clone, Debug)]
pub struct BuiltVersion {
    /// Its id.
    pub id: VersionId,
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's body, whose BLAKE3 is the id.
    pub body: Vec<u8>,
}

/// Everything that a build needs from its caller.
pub struct BuildContext<'a> {
    /// The version before, if there is one.
    pub earlier: Option<Earlier<'a>>,
    /// Stamps of the earlier version's files.
    pub stamps: &'a mut dyn StatCache,
    /// What becomes of missing files.
    pub absent: &'a dyn Absent,
    /// Takes the new pages.
    pub pages: &'a mut dyn PageSink,
    /// Takes the new chunks.
    pub chunks: &'a dyn ChunkSink,
    /// Told how far the build is, a few times a second at most.
    pub progress: &'a mut dyn FnMut(Progress),
}

/// Builds the next version of `folder`; none if it would be the same as the earlier one.
pub fn build(
    folder: &Path,
    options: &BuildOptions,
    context: BuildContext<'_>,
) -> Result<(Option<BuiltVersion>, BuildReport), BuildVersionError> {
    let BuildContext { earlier, stamps, absent, pages, chunks, progress } = context;
    let (chunker, grouping) = match &earlier {
        Some(earlier) => (earlier.manifest.chunker, earlier.manifest.grouping),
        None => (options.chunker, options.grouping),
    };
    chunker.check().map_err(BuildError::Params)?;
    let old = earlier.as_ref().map(|earlier| Tree::new(earlier.manifest, earlier.pages));
    let root = beneath::root(folder).map_err(|error| WalkError::of_root(folder, error))?;
    let book = RefCell::new(StampBook::new(stamps));
    let reading = ReadContext { root: root.as_fd(), chunker, chunks, cancel: &options.scan.cancel };
    let (built, report) = std::thread::scope(|scope| {
        let pool = ReadPool::new(scope, reading, options.scan.threads);
        let context = MergeContext { options, old, book: &book, absent, progress, small_below: chunker.min_bytes };
        let mut merge = Merge::start(scope, folder, pool, context)?;
        let built = match merge.next() {
            None => Ok(None),
            Some(first) => {
                let mut sink = StampingSink::new(pages, &book, old);
                let mut shared = FolderShared { root: Root::Borrowed(root.as_fd()), chunks };
                let builder = TreeBuilder::new(chunker, grouping, &mut sink, &mut shared)?;
                edit(old, std::iter::once(first).chain(&mut merge), builder).map(Some)
            }
        };
        // What stopped the merge explains whatever the build made of it.
        let report = merge.finish()?;
        Ok::<_, BuildVersionError>((built?, report))
    })?;
    let unchanged = match (&earlier, &built) {
        (Some(_), None) => true,
        (Some(earlier), Some(built)) => earlier.manifest.root == built.root && earlier.manifest.height == built.height,
        (None, _) => false,
    };
    if unchanged {
        return Ok((None, report));
    }
    let built = built.unwrap_or_default();
    let manifest = Manifest {
        chunker,
        grouping,
        parent: earlier.map(|earlier| earlier.id),
        origin: options.origin.clone(),
        metadata: options.metadata.clone(),
        height: built.height,
        root: built.root,
    };
    let body = manifest.encode();
    Ok((Some(BuiltVersion { id: Manifest::id_of(&body), manifest, body }), report))
}

/// Small files' bytes from the folder, for shared chunks that lose or gain a neighbour.
pub struct FolderShared<'a> {
    root: Root<'a>,
    chunks: &'a dyn ChunkSink,
}

enum Root<'a> {
    Borrowed(BorrowedFd<'a>),
    Own(OwnedFd),
}

impl<'a> FolderShared<'a> {
    /// The files of `folder`; the chunks that are put together go to `chunks`.
    pub fn open(folder: &Path, chunks: &'a dyn ChunkSink) -> io::Result<Self> {
        Ok(Self { root: Root::Own(beneath::root(folder)?), chunks })
    }

    /// The bytes of a small file, if they are still these.
    pub fn small(&self, path: &[u8], hash: &ChunkId) -> Option<Bytes> {
        let root = match &self.root {
            Root::Borrowed(root) => *root,
            Root::Own(root) => root.as_fd(),
        };
        let file = beneath::open_file(root, path).ok()?;
        let mut bytes = Vec::new();
        file.take(u64::from(CHUNK_BYTES_MAX)).read_to_end(&mut bytes).ok()?;
        (ChunkId::of(&bytes) == *hash).then(|| Bytes::from(bytes))
    }
}

impl SharedSink for FolderShared<'_> {
    fn read_small(&mut self, path: &RelPath, hash: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        // Whatever stands in the way, the file's earlier stretch serves as well, or proves unavailable in its turn.
        Ok(self.small(path.as_bytes(), hash))
    }

    fn put_shared(&mut self, chunk: ChunkRef, bytes: &[u8]) -> Result<(), SinkError> {
        self.chunks.put_chunk(chunk, bytes)
    }
}
