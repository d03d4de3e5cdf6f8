//! RDMA in the lab: the programs, built with it, against a Soft-RoCE device of the guest's kernel.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::guest::Guest;
use crate::process::{cargo, output, target_dir};

/// Kernel modules of the device. `rdma_rxe` asks for `crc32` when it runs, so no list of needs names it.
const MODULES: [&str; 4] = ["crc32_generic", "veth", "rdma_rxe", "rdma_ucm"];
/// How long it may take where the processor is emulated and busy.
const LIMIT: Duration = Duration::from_mins(9);
/// Where Debian's packages have the user's side of the device.
const PROVIDER_LIST: &str = "/etc/libibverbs.d/rxe.driver";
const PROVIDER_FOLDER: &str = "/usr/lib/x86_64-linux-gnu/libibverbs";

/// Runs the tests of the programs that need a device.
const TESTS: &str = "reading --ignored --test-threads=1 --nocapture";
/// Samples what the processors do: by their clock, for the guest's have no counters.
const RECORD: &str = "perf record --quiet --all-cpus --event cpu-clock --freq 500 --output /tmp/profile --";

/// How much of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The tests.
    Short,
    /// The tests, and the bandwidth beside that of `ib_write_bw`.
    Full,
    /// Only the bandwidth, with a profile of the whole guest.
    Profile,
}

/// What of RDMA can't be had on this machine; none if all can.
pub(super) fn lacking() -> Option<String> {
    let missing: Vec<_> =
        crate::setup::RDMA.iter().filter(|need| !need.is_present()).map(crate::setup::Need::name).collect();
    (!missing.is_empty()).then(|| format!("there is no {} (`cargo xtask setup`)", missing.join(", ")))
}

/// What cargo is told so that programs and tests have RDMA, on a machine that can build it.
pub(crate) fn features() -> &'static [&'static str] {
    if lacking().is_some() {
        return &[];
    }
    &["--features", "core-node/rdma,headwater-client/rdma,headwater-python/rdma,simulations/rdma"]
}

/// Builds the programs with RDMA, boots the guest, and runs the tests in it.
pub(super) fn run(extent: Extent) -> anyhow::Result<()> {
    let test = build()?;
    let mut files = vec![(PROVIDER_LIST.to_owned(), PathBuf::from(PROVIDER_LIST))];
    for entry in std::fs::read_dir(PROVIDER_FOLDER).with_context(|| format!("{PROVIDER_FOLDER} can't be read"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("librxe-") {
            // A link in this folder may lead to a file in another.
            files.push((format!("{PROVIDER_FOLDER}/{name}"), path.canonicalize()?));
        }
    }
    let script = |tests: &str| include_str!("../../../simulations/lab/rdma.sh").replace("TESTS", tests);
    let mut programs = vec![test];
    programs.extend(["core-node", "edge-agent", "headwater"].map(|name| target_dir().join("debug").join(name)));
    programs.extend(["rdma", "ib_write_bw"].map(PathBuf::from));
    let peer = include_str!("../../../simulations/lab/rdma-peer.sh");
    let script = match extent {
        Extent::Short => script(&format!("{TESTS} rdma:: --skip bandwidth --skip load")),
        Extent::Full => script(&format!("{TESTS} rdma:: --skip load")) + peer,
        Extent::Profile => {
            programs.push("perf".into());
            script(&format!("{RECORD} {TESTS} rdma::load")) + include_str!("../../../simulations/lab/rdma-profile.sh")
        }
    };
    let keeps_names = extent == Extent::Profile;
    let guest = Guest { modules: &MODULES, programs, files, script, keeps_names, memory_mib: 2048, limit: LIMIT };
    guest.run(|line| println!("  {line}"))
}

/// Builds all programs and tests, as the test command does; where the test is.
fn build() -> anyhow::Result<PathBuf> {
    let built = output(
        cargo()
            .args(["test", "--workspace", "--locked", "--no-run", "--quiet", "--message-format", "json"])
            .args(features()),
    )?;
    let is_test = |message: &Value| message["target"]["name"] == "reading" && message["executable"].is_string();
    let test = built.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(is_test);
    let test = test.and_then(|message| message["executable"].as_str().map(PathBuf::from));
    let Some(test) = test else { bail!("cargo did not say where the test is") };
    // In the guest it has a name that the script knows.
    let named = target_dir().join("lab").join("reading");
    std::fs::create_dir_all(target_dir().join("lab"))?;
    std::fs::copy(&test, &named)?;
    Ok(named)
}
