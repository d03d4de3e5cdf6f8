//! Whether a published folder still is what was published: a disk that is not mounted leaves an empty folder in its place,
//! and `mirror` must not take that for a deletion of everything.
//!
//! Two things make a folder suspect: there is nothing in it at all any more, or it lies on another device than before and
//! none of the files that are looked for is there. A device number alone says little, since it changes with a restart of
//! the machine; and a folder whose files have all been replaced on the same device is an ordinary one.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use headwater_protocol::record::FileKind;
use headwater_protocol::tree::{Tree, TreeError};
use rustix::fs::{Mode, OFlags};

use super::build::BuildVersionError;
use crate::beneath;
use crate::error::{CodedError, codes};
use crate::scan::ScanOptions;
use crate::scan::walk::{Walk, WalkError, WalkItem};

/// Files of the earlier version that are looked for where the device is another one.
const SOUGHT_FILES_MAX: u64 = 64;

/// What is suspect about a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// It had files, and now there is nothing in it.
    Emptied {
        /// The folder.
        folder: PathBuf,
    },
    /// It lies on another device, and of its files none was found.
    OtherDevice {
        /// The folder.
        folder: PathBuf,
    },
}

/// What a look at a folder gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The device that the folder lies on: to be remembered for the next look, unless there is a suspicion.
    pub device: u64,
    /// Why what is missing from it must not count as deleted.
    pub suspicion: Option<Suspicion>,
}

/// Why a folder can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// The folder can't be listed.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The earlier version can't be read.
    #[error("the earlier version can't be read: {0}")]
    Earlier(#[from] TreeError),
}

impl From<StandingError> for CodedError {
    fn from(error: StandingError) -> Self {
        match error {
            StandingError::Walk(error) => BuildVersionError::from(error).into(),
            StandingError::Earlier(error) => Self::new(&codes::CATALOG_DAMAGED, error.to_string()),
        }
    }
}

impl From<Suspicion> for CodedError {
    fn from(suspicion: Suspicion) -> Self {
        match suspicion {
            Suspicion::Emptied { folder } => {
                let message = format!("`{}` is empty all at once; its files stay in the dataset", folder.display());
                Self::new(&codes::FOLDER_SUSPECT, message)
            }
            Suspicion::OtherDevice { folder } => {
                let shown = folder.display();
                let message = format!("`{shown}` lies on another disk, without its files; these stay in the dataset");
                Self::new(&codes::FOLDER_SUSPECT, message)
                    .with_hint("mount its disk again; if the files are to go, `edge-agent delete NAME PATH` says so")
            }
        }
    }
}

/// Looks at `folder`, of which `earlier` is the last version; `device_before` is the device that it lay on then, where that
/// is known. Costs a listing up to the first file, and up to 64 look-ups where the device has changed.
pub fn standing(
    folder: &Path,
    scan: &ScanOptions,
    earlier: Option<Tree<'_>>,
    device_before: Option<u64>,
) -> Result<Standing, StandingError> {
    let failed = |error| WalkError::of_root(folder, error);
    let root = beneath::root(folder).map_err(failed)?;
    let device = rustix::fs::fstat(&root).map_err(failed)?.st_dev;
    let Some(tree) = earlier.filter(|tree| tree.totals().files > 0) else {
        return Ok(Standing { device, suspicion: None });
    };
    let suspicion = if is_empty(folder, scan)? {
        Some(Suspicion::Emptied { folder: folder.to_owned() })
    } else if device_before.is_some_and(|before| before != device) && !has_any(&root, tree)? {
        Some(Suspicion::OtherDevice { folder: folder.to_owned() })
    } else {
        None
    };
    Ok(Standing { device, suspicion })
}

fn is_empty(folder: &Path, scan: &ScanOptions) -> Result<bool, WalkError> {
    let mut walk = Walk::new(folder, scan)?;
    while let Some(item) = walk.advance()? {
        if !matches!(item, WalkItem::Note(_)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether any of the files of `tree` that are looked for is there. They are spread over all of it.
fn has_any(root: &impl AsFd, tree: Tree<'_>) -> Result<bool, TreeError> {
    let files = tree.totals().files;
    let sought = files.min(SOUGHT_FILES_MAX);
    for number in 0..sought {
        let at = u128::from(files) * u128::from(number) / u128::from(sought);
        let Some(record) = tree.file_at(at as u64)? else { continue };
        let found = beneath::open(root.as_fd(), &record.path, OFlags::PATH, Mode::empty());
        if record.kind == FileKind::File && found.is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}
