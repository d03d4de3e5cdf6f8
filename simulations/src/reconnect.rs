//! A whole fleet with backlogs comes back at once, after the core was restarted: everybody makes progress and finishes, and
//! the core stays small.
//!
//! The core is a real process. The devices are agents as they ship, with their catalogs, folders and sockets, all in this
//! process: a thousand processes would measure the machine. When the core is back, each device knocks at some moment of
//! the span, drawn from a seed, or before if its own back-off says so.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_agent::agent::Agent;
use rustix::process::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::processes::{CoreProcess, folder};
use crate::random::Random;

/// Most memory that the core may take.
pub const CORE_BYTES_MAX: u64 = 512 << 20;
/// Threads for blocking work of all devices together.
const BLOCKING_THREADS: usize = 64;
/// Devices that join at once.
const JOINING_AT_ONCE: usize = 16;
/// Time between two looks at how far everybody is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longest that a step may go on without anybody making progress.
const STANDSTILL_MAX: Duration = Duration::from_mins(3);
/// Devices of which what is at the core is compared byte by byte.
const COMPARED: usize = 10;

/// How large the fleet is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Devices.
    pub devices: usize,
    /// Bytes that each has gathered while the core was down.
    pub backlog_bytes: usize,
    /// The span after the core's start in which all knock.
    pub within: Duration,
    /// What draws when each does.
    pub seed: u64,
}

/// How it went.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// Devices.
    pub devices: usize,
    /// Bytes that each had to send.
    pub backlog_bytes: usize,
    /// From the core's start until half of the devices had all their data acknowledged.
    pub half_after: Duration,
    /// The same for the last of them.
    pub last_after: Duration,
    /// The longest that one waited between its knock and the acknowledgement of its last byte.
    pub longest: Duration,
    /// Most memory of the core, from its start to the end.
    pub core_peak_bytes: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} devices with {} KiB each: half were done {:.1} s after the core was back, the last after {:.1} s; the longest \
             took {:.1} s from its knock to the end; the core's peak memory was {:.1} MiB",
            self.devices,
            self.backlog_bytes >> 10,
            self.half_after.as_secs_f64(),
            self.last_after.as_secs_f64(),
            self.longest.as_secs_f64(),
            self.core_peak_bytes as f64 / f64::from(1 << 20),
        )
    }
}

struct Device {
    agent: Arc<Agent>,
    folder: PathBuf,
    name: String,
}

/// Plays it.
///
/// # Panics
///
/// If a device does not finish, or the core then has not what it sent.
pub fn run(options: Options) -> Tally {
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .expect("a runtime starts");
    let mut core = CoreProcess::start();
    let base = tempfile::tempdir().expect("a folder");
    let mut random = Random::new(options.seed);
    let devices = join(&runtime, &core, &base, options.devices);
    for device in &devices {
        runtime.spawn(edge_agent::daemon::keep(Arc::clone(&device.agent)));
    }
    wait_for_all("the first versions", &devices, |_| (), |device| is_committed(device, 1));

    core.kill();
    for device in &devices {
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.next() as u8).take(options.backlog_bytes).collect();
        folder::write(&device.folder.join("backlog.bin"), &bytes);
        device.agent.look_again();
    }
    wait_for_all("the backlogs", &devices, |_| (), |device| device.agent.unsent_since().is_some());

    core.run();
    let began = Instant::now();
    let span_ms = options.within.as_millis() as u64;
    let knocks: Vec<_> = devices.iter().map(|_| Duration::from_millis(random.below(span_ms + 1))).collect();
    for (device, knock) in devices.iter().zip(&knocks) {
        let (agent, at) = (Arc::clone(&device.agent), began + *knock);
        runtime.spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            agent.look_again();
        });
    }
    let mut done = Vec::new();
    let mut longest = Duration::ZERO;
    wait_for_all(
        "all to be done",
        &devices,
        |index| {
            done.push(began.elapsed());
            longest = longest.max(began.elapsed().saturating_sub(knocks[index]));
        },
        |device| is_committed(device, 2),
    );
    let core_peak_bytes = core.peak_bytes();
    check(&core, &devices, options.backlog_bytes);
    let [half_after, last_after] = [done[done.len() / 2], done[done.len() - 1]];
    let Options { devices, backlog_bytes, .. } = options;
    // Dropped outside of any of its own tasks, and before the folders.
    runtime.shutdown_timeout(Duration::from_secs(5));
    Tally { devices, backlog_bytes, half_after, last_after, longest, core_peak_bytes }
}

/// Lets the devices join, each with a folder that has one small file.
fn join(runtime: &Runtime, core: &CoreProcess, base: &TempDir, count: usize) -> Vec<Device> {
    let token: Arc<str> = core.token(&["--uses", &count.to_string(), "--write", "fleet/*"]).into();
    let slots = Arc::new(tokio::sync::Semaphore::new(JOINING_AT_ONCE));
    let mut joining = JoinSet::new();
    for number in 0..count {
        let (token, slots, base) = (Arc::clone(&token), Arc::clone(&slots), base.path().join(number.to_string()));
        let join = async move {
            let _slot = slots.acquire().await;
            let name = format!("device-{number}");
            let (data, folder) = (base.join("agent"), base.join("files"));
            folder::write(&folder.join("first.txt"), name.as_bytes());
            let settings = format!(
                "[scan]\nsettle = \"0s\"\nwatch = false\nthreads = 1\n\
                 [[publish]]\nfolder = \"{}\"\ndataset = \"fleet/{{device}}\"\nevery = \"10s\"\n",
                folder.display()
            );
            folder::write(&data.join("agent.toml"), settings.as_bytes());
            let agent = Agent::open(&data, None).expect("an agent opens");
            edge_agent::session::dial::join(&agent, &token, None, Some(&name)).await.expect("a token serves");
            Device { agent, folder, name }
        };
        joining.spawn_on(join, runtime.handle());
    }
    runtime.block_on(joining.join_all())
}

/// Whether the device has a receipt for this version of its dataset or a later one.
fn is_committed(device: &Device, number: u64) -> bool {
    let datasets = device.agent.datasets().unwrap_or_default();
    let committed = datasets.first().and_then(|row| device.agent.catalog().committed(row.id).ok().flatten());
    committed.is_some_and(|version| version.number >= number && !version.receipt.is_empty())
}

/// Looks until all are as wanted; `seen` hears of each when it is.
fn wait_for_all(what: &str, devices: &[Device], mut seen: impl FnMut(usize), is_so: impl Fn(&Device) -> bool) {
    let mut waiting: Vec<usize> = (0..devices.len()).collect();
    let mut moved = Instant::now();
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|&index| {
            let is_so = is_so(&devices[index]);
            if is_so {
                seen(index);
            }
            !is_so
        });
        if waiting.len() < before {
            moved = Instant::now();
        }
        let (count, first) = (waiting.len(), waiting.first().map(|&index| &devices[index].name));
        assert!(moved.elapsed() < STANDSTILL_MAX, "{what}: {count} devices stand still, among them {first:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The core must have what all of them sent, whole.
fn check(core: &CoreProcess, devices: &[Device], backlog_bytes: usize) {
    let rows = core.list(&["dataset", "list"]);
    assert_eq!(rows.len(), devices.len());
    for row in &rows {
        assert!(row["bytes"].as_u64().is_some_and(|bytes| bytes > backlog_bytes as u64), "{row}");
    }
    for device in devices.iter().step_by(devices.len().div_ceil(COMPARED).max(1)) {
        folder::assert_same(&device.folder, &core.export(&format!("fleet/{}", device.name)));
    }
    core.verify();
}

/// Each device has its catalog, its lock and its sockets open.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With too few a device will say so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// What docs/benchmarks.md says of it.
pub fn figures(tally: &Tally, how: &str) -> String {
    let Tally { devices, backlog_bytes, half_after, last_after, longest, core_peak_bytes } = tally;
    let is_reached = if *core_peak_bytes <= CORE_BYTES_MAX { "reached" } else { "**missed**" };
    format!(
        "{how}\n\n\
         | devices | backlog of each | half done after | last done after | longest from knock to end | core's peak memory | bar | |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n\
         | {devices} | {} KiB | {:.1} s | {:.1} s | {:.1} s | {:.1} MiB | all finish, ≤ 512 MiB | {is_reached} |\n",
        backlog_bytes >> 10,
        half_after.as_secs_f64(),
        last_after.as_secs_f64(),
        longest.as_secs_f64(),
        *core_peak_bytes as f64 / f64::from(1 << 20),
    )
}
