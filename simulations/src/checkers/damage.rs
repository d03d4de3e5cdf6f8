//! Damage is mended: what a core's disk has lost of the newest version of a dataset, whose files its device still has, is whole
//! again in the end, whoever noticed.

use std::collections::BTreeMap;

use crate::world::history::{Fact, History};

pub(super) fn check(history: &History) -> Option<String> {
    let mut newest: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    let mut damaged = None;
    for (_, fact) in &history.facts {
        match fact {
            Fact::Damaged { pack } => {
                damaged = Some(*pack);
                for (_, is_whole) in newest.values_mut() {
                    *is_whole = false;
                }
            }
            Fact::Version { dataset, number, files, .. } => {
                newest.insert(dataset, (*number, files.is_ok()));
            }
            Fact::Again { dataset, number, version } => {
                if let Some((_, is_whole)) = newest.get_mut(dataset.as_str()).filter(|(newest, _)| newest == number) {
                    *is_whole = version.is_ok();
                }
            }
            Fact::Ended(_) => break,
            _ => {}
        }
    }
    let pack = damaged?;
    let (dataset, (number, _)) = newest.iter().find(|(_, (_, is_whole))| !is_whole)?;
    Some(format!("`{dataset}@{number}` is not whole again after pack {pack} was damaged"))
}
