//! What a version, a folder or a store really holds: everything is read and hashed, nothing believed.

use std::io;
use std::path::Path;

use core_node::catalog::{DatasetId, Scope, UnixMs};
use core_node::core::Core;
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::record::FileKind;
use headwater_protocol::tree::Tree;

use super::history::Files;

/// What files begin with that must never leave their device.
pub(super) const SECRET: &[u8] = b"never leaves this device: ";

/// The files of a version of `dataset` as the core can give them out; or why it can't.
pub(super) fn of_version(core: &Core, dataset: DatasetId, manifest: &Manifest) -> Result<Files, String> {
    let tree = Tree::new(manifest, &core.pages);
    check_members(core, dataset, tree)?;
    let mut files = Files::new();
    for record in tree.records() {
        let record = record.map_err(|error| error.to_string())?;
        if record.kind != FileKind::File {
            continue;
        }
        let path = String::from_utf8_lossy(&record.path).into_owned();
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
        for stretch in tree.stretches(&record) {
            let stretch = stretch.map_err(|error| format!("{path}: {error}"))?;
            let chunk = core.store.read(&stretch.chunk.id).map_err(|error| format!("{path}: {error}"))?;
            let range = stretch.offset as usize..(stretch.offset + stretch.length) as usize;
            let part = chunk.get(range).ok_or_else(|| format!("{path}: a stretch ends behind its chunk"))?;
            if part.starts_with(SECRET) {
                return Err(format!("{path} is of a local dataset"));
            }
            hasher.update(part);
            bytes += part.len() as u64;
        }
        if bytes != record.size {
            return Err(format!("{path} has {bytes} bytes, and the version says {}", record.size));
        }
        files.insert(path, ChunkId(*hasher.finalize().as_bytes()));
    }
    Ok(files)
}

/// Whoever may read the dataset can read every page and chunk of the version.
fn check_members(core: &Core, dataset: DatasetId, tree: Tree<'_>) -> Result<(), String> {
    let (mut pages, mut chunks) = (Vec::new(), Vec::new());
    tree.walk(
        &mut |page| {
            pages.push(*page);
            true
        },
        &mut |chunk| chunks.push(chunk.id),
    )
    .map_err(|error| error.to_string())?;
    pages.append(&mut chunks);
    let scope = Scope { everything: false, datasets: vec![dataset], uploader: None };
    let found = core.catalog.locate_visible(&scope, &pages, UnixMs::default()).map_err(|error| error.to_string())?;
    match found.iter().position(Option::is_none) {
        Some(at) => Err(format!("chunk {} is no part of the dataset", pages[at].short())),
        None => Ok(()),
    }
}

/// The files in a folder.
pub(super) fn of_folder(folder: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
                files.insert(name, ChunkId::of(&std::fs::read(&path)?));
            }
        }
    }
    Ok(files)
}
