//! What a device says of itself that decides whether it may train, and whether its own operator lets it now.

use std::path::Path;

use headwater_protocol::federated::DeviceReport;

use super::contract::ShownDataset;
use crate::agent::Agent;
use crate::catalog::{CatalogError, Role, VersionRow};
use crate::clock;
use crate::settings::TrainingSettings;

/// Where Linux says what the machine draws power from.
const POWER_SUPPLIES: &str = "/sys/class/power_supply";
/// Minutes of a day.
const DAY_MIN: i64 = 24 * 60;

/// The datasets that programs are told of. Blocks.
pub(super) fn shown(agent: &Agent) -> Result<Vec<ShownDataset>, CatalogError> {
    let settings = agent.settings();
    let catalog = agent.catalog();
    let mut shown = Vec::new();
    for folder in agent.folders().0.into_iter().filter(|folder| settings.training.shows(folder.dataset.as_str())) {
        let row = catalog.dataset(folder.dataset.as_str(), folder.role, &folder.path)?;
        let newest = catalog.pending(row.id)?.or(catalog.committed(row.id)?);
        shown.push(ShownDataset { name: row.name, samples: samples(newest.as_ref()), folder: folder.path });
    }
    for row in agent.datasets()?.into_iter().filter(|row| row.role == Role::Subscribe) {
        if settings.training.shows(&row.name) {
            let newest = catalog.committed(row.id)?;
            let folder = row.folder.join("current");
            shown.push(ShownDataset { name: row.name, samples: samples(newest.as_ref()), folder });
        }
    }
    Ok(shown)
}

fn samples(version: Option<&VersionRow>) -> u64 {
    version.and_then(|version| version.decode_manifest().ok()).map_or(0, |manifest| manifest.totals().samples)
}

/// What the core is told. Blocks.
pub(super) fn report(agent: &Agent, unmetered: Option<bool>) -> Result<DeviceReport, CatalogError> {
    let settings = agent.settings();
    let training = &settings.training;
    let memory = memory_free_bytes();
    Ok(DeviceReport {
        on_power: on_power(Path::new(POWER_SUPPLIES)),
        unmetered,
        memory_free_bytes: training.memory.map_or(memory, |limit| limit.0.min(memory)),
        samples: shown(agent)?.iter().map(|dataset| dataset.samples).sum(),
        tasks_max: training.at_once,
        encodings: training.encodings.clone(),
        has_program: !training.command.is_empty(),
        takes_programs: !training.trust.is_empty(),
    })
}

/// Whether a mains supply is there and on; none where the machine has neither mains nor a battery that it knows of.
fn on_power(supplies: &Path) -> Option<bool> {
    let read = |path: &Path, file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default().trim().to_owned();
    let mut has_battery = false;
    for entry in std::fs::read_dir(supplies).ok()?.flatten() {
        match read(&entry.path(), "type").as_str() {
            "Mains" | "USB" if read(&entry.path(), "online") == "1" => return Some(true),
            "Mains" | "Battery" => has_battery = true,
            _ => {}
        }
    }
    // A machine without a battery runs on mains or not at all.
    Some(!has_battery)
}

fn memory_free_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What keeps this device from training now by its own operator's word, if something does.
pub(super) fn obstacle(training: &TrainingSettings, report: &DeviceReport, utc_offset_min: i64) -> Option<String> {
    if training.on_power_only && report.on_power != Some(true) {
        return Some("the device is not on mains power".to_owned());
    }
    if training.unmetered_only && report.unmetered != Some(true) {
        return Some("the device's link is metered".to_owned());
    }
    let (Some(from), Some(until)) = (training.from, training.until) else { return None };
    let now = (clock::now_s().div_euclid(60) + utc_offset_min).rem_euclid(DAY_MIN);
    let (from, until) = (i64::from(from.minute), i64::from(until.minute));
    let is_time = if from <= until { (from..until).contains(&now) } else { now >= from || now < until };
    (!is_time).then(|| "it is not the device's time for training".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_is_what_the_supplies_say() {
        let root = tempfile::tempdir().expect("a folder");
        let supply = |name: &str, kind: &str, online: &str| {
            let folder = root.path().join(name);
            std::fs::create_dir_all(&folder).expect("made");
            std::fs::write(folder.join("type"), kind).expect("written");
            std::fs::write(folder.join("online"), online).expect("written");
        };
        assert_eq!(on_power(&root.path().join("none")), None);
        assert_eq!(on_power(root.path()), Some(true));
        supply("BAT0", "Battery\n", "");
        assert_eq!(on_power(root.path()), Some(false));
        supply("AC", "Mains\n", "1\n");
        assert_eq!(on_power(root.path()), Some(true));
    }
}
