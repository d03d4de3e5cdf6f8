//! Which samples of a version match a filter: asked once by a job, which then reads by number.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use headwater_host::error::{CodedError, codes};
use headwater_protocol::page::LeafPage;
use headwater_protocol::record::FileKind;
use headwater_protocol::tree::{Tree, stem_groups};

use super::answer::{Answer, RunRow};
use super::datasets::{hold, manifest_of, tree_failed};
use super::handler::{Asker, Emitter};
use super::labels::Labels;
use super::request::LabelTerm;
use crate::core::Core;
use crate::samples::index_of;

/// Most patterns of a filter.
const PATTERNS_MAX: usize = 64;
/// Most runs of an answer: 24 bytes each in the memory of a job. With more than a declaration takes the core doesn't read ahead.
const RUNS_MAX: usize = 1 << 18;

/// Gives the samples of `version` that have a file which one of `patterns` matches, if there are any, and all of `labels`, as runs that ascend.
/// Where samples are inside files, patterns are matched with the paths of the records.
pub(super) fn samples(
    core: &Arc<Core>,
    asker: &Asker,
    version: &str,
    (patterns, labels): (&[String], &[LabelTerm]),
    out: &Emitter,
) -> Result<(), CodedError> {
    let matched = compiled(patterns)?;
    if matched.is_none() && labels.is_empty() {
        return Err(CodedError::new(&codes::USAGE, "a filter has a pattern or a label at least"));
    }
    let (dataset, version, lease) = hold(core, asker, version)?;
    let (manifest, index) = (manifest_of(&version)?, index_of(core, &dataset, &version)?);
    let mut labels = Labels::new(labels, index.is_some(), |id| core.store.read(id))?;
    let tree = Tree::new(index.as_ref().unwrap_or(&manifest), &core.pages);
    let matches = |path: &Path| matched.as_ref().is_none_or(|matched| matched.is_match(path));
    let goes_on = || {
        lease.renew_if_old();
        if out.is_closed() {
            return Err(CodedError::new(&codes::SESSION_ENDED, "the filter was given up"));
        }
        Ok(())
    };
    let runs = runs(&tree, matches, |leaf, group| labels.keep(leaf, group), goes_on)?;
    if runs.len() > RUNS_MAX {
        let message = format!("the filter keeps samples of {} places, and {RUNS_MAX} is the most", runs.len());
        return Err(CodedError::new(&codes::USAGE, message).with_hint(
            "filter by folders, whose samples are neighbours, or publish what is read together as a dataset of its own",
        ));
    }
    runs.into_iter().try_for_each(|run| out.send(&Answer::Run(run)))
}

/// The patterns; none if there are none, and all paths match.
fn compiled(patterns: &[String]) -> Result<Option<GlobSet>, CodedError> {
    if patterns.len() > PATTERNS_MAX {
        let message = format!("a filter has at most {PATTERNS_MAX} patterns, and not {}", patterns.len());
        return Err(CodedError::new(&codes::USAGE, message));
    }
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    let wrong = |error: globset::Error| {
        CodedError::new(&codes::USAGE, format!("a filter can't be read: {error}"))
            .with_hint("as in `.gitignore`: `train/**`, `*/left/*.png`, `**/0001.*`")
    };
    for pattern in patterns {
        set.add(GlobBuilder::new(pattern).literal_separator(true).build().map_err(wrong)?);
    }
    set.build().map(Some).map_err(wrong)
}

fn runs(
    tree: &Tree<'_>,
    matches: impl Fn(&Path) -> bool,
    mut is_labelled: impl FnMut(&LeafPage, Range<usize>) -> Result<bool, CodedError>,
    mut goes_on: impl FnMut() -> Result<(), CodedError>,
) -> Result<Vec<RunRow>, CodedError> {
    let mut runs: Vec<RunRow> = Vec::new();
    let mut number = 0;
    for at in tree.leaves() {
        goes_on()?;
        let leaf = at.and_then(|at| tree.leaf(&at)).map_err(tree_failed)?;
        for group in stem_groups(&leaf.records) {
            let mut files =
                leaf.records[group.clone()].iter().filter(|record| record.kind == FileKind::File).peekable();
            if files.peek().is_none() {
                continue;
            }
            if files.any(|record| matches(path_of(&record.path))) && is_labelled(&leaf, group)? {
                match runs.last_mut() {
                    Some(last) if last.end == number => last.end += 1,
                    _ => runs.push(RunRow { first: number, end: number + 1 }),
                }
            }
            number += 1;
        }
    }
    Ok(runs)
}

/// A path as patterns see it; names that are not UTF-8 too.
fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
