//! A version is visible only whole: whoever sees it can read every byte of it, and each of its files is one that somebody
//! had at that place, never a mixture.

use std::collections::BTreeSet;

use headwater_protocol::id::ChunkId;

use crate::world::history::{Fact, History};

pub(super) fn check(history: &History) -> Option<String> {
    let (mut written, mut was_damaged) = (BTreeSet::new(), false);
    for (at, fact) in &history.facts {
        match fact {
            Fact::Wrote { dataset, path, hash, .. } => {
                written.insert((dataset.as_str(), path.as_str(), *hash));
            }
            Fact::Damaged { .. } => was_damaged = true,
            // It was whole once, and whether it becomes so again is another checker's.
            Fact::Version { files: Err(_), .. } if was_damaged => {}
            Fact::Version { dataset, number, files: Err(reason), .. } => {
                return Some(format!("`{dataset}@{number}` is there at {at} ms and can't be read: {reason}"));
            }
            Fact::Held { device, dataset, files } => {
                let is_strange =
                    |(path, hash): &(&String, &ChunkId)| !written.contains(&(dataset.as_str(), path.as_str(), **hash));
                if let Some((path, _)) = files.iter().find(is_strange) {
                    return Some(format!("`{path}` of `{dataset}` at device {device} is no file that was ever there"));
                }
            }
            Fact::Version { dataset, number, files: Ok(files), .. } => {
                let is_strange =
                    |(path, hash): &(&String, &ChunkId)| !written.contains(&(dataset.as_str(), path.as_str(), **hash));
                if let Some((path, _)) = files.iter().find(is_strange) {
                    return Some(format!("`{path}` in `{dataset}@{number}` is no file that was ever there"));
                }
            }
            _ => {}
        }
    }
    None
}
