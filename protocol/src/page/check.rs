//! What a decoded page must be before anyone looks at it.

use super::{ChildRef, HEIGHT_MAX, LeafPage, Page};
use crate::record::{ChunkRef, Content, Extent, FileKind, FileRecord};

impl Page {
    /// What of this page can't be, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Leaf(leaf) => check_leaf(leaf),
            Self::Inner { level, children } => check_inner(*level, children),
            Self::ExtentLeaf(chunks) => {
                check_chunks(chunks)?;
                if chunks.is_empty() { Err("an extent page without chunks".into()) } else { Ok(()) }
            }
            Self::ExtentInner { level, children } => {
                if *level == 0 || *level >= HEIGHT_MAX || children.is_empty() {
                    return Err(format!("an inner extent page of level {level} with {} children", children.len()));
                }
                let total = children.iter().try_fold((0u64, 0u64), |(bytes, chunks), child| {
                    Some((bytes.checked_add(child.bytes)?, chunks.checked_add(child.chunks)?))
                });
                total.map(|_| ()).ok_or_else(|| "its counts overflow".to_owned())
            }
        }
    }
}

fn check_chunks(chunks: &[ChunkRef]) -> Result<(), String> {
    match chunks.iter().find(|chunk| chunk.length == 0 || chunk.length > crate::chunking::CHUNK_BYTES_MAX) {
        Some(chunk) => Err(format!("chunk {} claims {} bytes", chunk.id.short(), chunk.length)),
        None => Ok(()),
    }
}

fn check_inner(level: u8, children: &[ChildRef]) -> Result<(), String> {
    if level == 0 || level >= HEIGHT_MAX || children.is_empty() {
        return Err(format!("an inner page of level {level} with {} children", children.len()));
    }
    let mut sums = (0u64, 0u64, 0u64, 0u64);
    let mut last: Option<&[u8]> = None;
    for child in children {
        crate::path::RelPath::new(child.first.clone()).map_err(|error| error.to_string())?;
        if last.is_some_and(|last| crate::path::compare(last, &child.first).is_ge()) {
            return Err("its children are out of order".into());
        }
        last = Some(&child.first);
        let added = |sum: u64, more: u64| sum.checked_add(more).ok_or_else(|| "its counts overflow".to_owned());
        sums = (
            added(sums.0, child.files)?,
            added(sums.1, child.samples)?,
            added(sums.2, child.bytes)?,
            added(sums.3, child.chunks)?,
        );
    }
    Ok(())
}

fn check_leaf(leaf: &LeafPage) -> Result<(), String> {
    check_chunks(&leaf.chunks)?;
    if leaf.records.is_empty() {
        return Err("a leaf page without records".into());
    }
    let mut ids: Vec<_> = leaf.chunks.iter().map(|chunk| chunk.id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("its chunk table names a chunk twice".into());
    }
    let mut named = vec![false; leaf.chunks.len()];
    let mut last: Option<&[u8]> = None;
    let mut bytes = 0u64;
    for record in &leaf.records {
        let path = crate::path::RelPath::new(record.path.clone()).map_err(|error| error.to_string())?;
        if last.is_some_and(|last| crate::path::compare(last, &record.path).is_ge()) {
            return Err(format!("`{path}` is out of order"));
        }
        last = Some(&record.path);
        check_record(leaf, record, &mut named).map_err(|reason| format!("`{path}`: {reason}"))?;
        bytes = bytes.checked_add(record.size).ok_or("its files' sizes overflow")?;
    }
    if named.contains(&false) {
        return Err("its chunk table names a chunk that no record does".into());
    }
    Ok(())
}

fn check_record(leaf: &LeafPage, record: &FileRecord, named: &mut [bool]) -> Result<(), String> {
    let target_ok = match record.kind {
        FileKind::Symlink => {
            !record.link_target.is_empty()
                && record.link_target.len() <= crate::path::PATH_BYTES_MAX
                && !record.link_target.contains(&0)
        }
        FileKind::File | FileKind::Folder => record.link_target.is_empty(),
    };
    if !target_ok {
        return Err("its link target does not fit its kind".into());
    }
    if record.mode > 0o7777 {
        return Err(format!("its mode is {:o}", record.mode));
    }
    if record.kind != FileKind::File && (record.size != 0 || record.content != Content::Empty) {
        return Err("it is no file but has content".into());
    }
    let covered = match &record.content {
        Content::Empty => 0,
        Content::Shared { extent, .. } => {
            let chunk = name_chunk(leaf, extent, named)?;
            if u64::from(extent.offset) + u64::from(extent.length) > u64::from(chunk.length) || extent.length == 0 {
                return Err("its extent lies outside its chunk".into());
            }
            u64::from(extent.length)
        }
        Content::Whole(extents) => {
            let mut covered = 0u64;
            for extent in extents {
                let chunk = name_chunk(leaf, extent, named)?;
                if extent.offset != 0 || extent.length != chunk.length {
                    return Err("an extent is not a whole chunk".into());
                }
                covered += u64::from(extent.length);
            }
            covered
        }
        Content::Paged { height, chunks, .. } => {
            if *height == 0 || *height > HEIGHT_MAX || *chunks == 0 || *chunks > record.size {
                return Err("its extent tree can't be".into());
            }
            record.size
        }
    };
    if covered == record.size { Ok(()) } else { Err(format!("its extents cover {covered} of {} bytes", record.size)) }
}

/// The chunk that an extent points into, which is noted as named.
fn name_chunk<'a>(leaf: &'a LeafPage, extent: &Extent, named: &mut [bool]) -> Result<&'a ChunkRef, String> {
    let index = extent.chunk as usize;
    let chunk = leaf.chunks.get(index).ok_or("an extent names no chunk of the page")?;
    named[index] = true;
    Ok(chunk)
}
