//! `doctor`: looks at what the agent needs of this machine, and says what to change.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use headwater_host::doctor::{self, Check, Verdict};
use headwater_host::error::CodedError;
use headwater_quic::{ClientOptions, connect, resolve};

use crate::device::Device;
use crate::settings::Settings;
use crate::training::Keeper;

/// Free space that an agent should have for its catalog and for what it takes.
const DISK_WANTED_BYTES: u64 = 1 << 30;
/// Size that the UDP socket buffers should be allowed to have.
const UDP_BUFFER_BYTES: u64 = 2 << 20;
/// Files that the agent may have open.
const FILES_WANTED: u64 = 1024;
/// How long the core may take to answer.
const CORE_WAIT: Duration = Duration::from_secs(5);

/// Makes all checks. The data folder is only looked at, so this works beside a running daemon.
pub async fn checks(data: &Path, config: Option<&Path>) -> Vec<Check> {
    let mut checks = vec![
        doctor::folder_rights("data folder", data, true),
        doctor::private_folder("data folder is private", data),
        doctor::disk_space("disk", data, DISK_WANTED_BYTES),
        doctor::clock("clock", false),
        doctor::open_files("open files", FILES_WANTED),
        doctor::udp_buffers("UDP buffers", UDP_BUFFER_BYTES),
    ];
    let settings = match Settings::load(data, config) {
        Ok(settings) => {
            checks.push(Check::ok("configuration", "it can be read"));
            settings
        }
        Err(error) => {
            checks.push(Check::fail("configuration", crate::agent::one_line(&error), error.hint));
            return checks;
        }
    };
    for (folder, dataset, _) in settings.scanned() {
        checks.push(doctor::folder_rights(&format!("folder of {dataset}"), folder, false));
    }
    for subscribe in &settings.subscribe {
        if subscribe.to.exists() {
            checks.push(doctor::folder_rights(&format!("folder of {}", subscribe.dataset), &subscribe.to, true));
        }
    }
    let roots: Vec<&Path> = settings.scanned().map(|(folder, ..)| folder).collect();
    if !roots.is_empty() && settings.scan.watch {
        checks.push(doctor::watch_limit("watches", &roots));
    }
    if settings.training.is_configured() {
        checks.push(training(&settings));
    }
    checks.push(core(data, &settings).await);
    checks
}

/// What keeps training programs within their limits, and whether the program is there.
fn training(settings: &Settings) -> Check {
    let name = "training";
    let limits = match Keeper::of_this_machine() {
        Keeper::Scope => "a systemd scope of their own",
        Keeper::Utilities => "`prlimit` and `setpriv`",
        Keeper::Nobody => {
            let found = "nothing limits the memory of programs, or ends them with the agent";
            return Check::warn(name, found, "install util-linux, which has `prlimit` and `setpriv`");
        }
    };
    let missing = settings.training.command.first().map(Path::new).filter(|path| path.is_absolute() && !path.exists());
    match missing {
        Some(path) => {
            let found = format!("the program `{}` is not there", path.display());
            Check::fail(name, found, "see `[training] command` in the settings")
        }
        None => Check::ok(name, format!("programs are limited by {limits}")),
    }
}

/// The exit code that belongs to the checks.
pub fn exit_code(checks: &[Check]) -> ExitCode {
    if doctor::worst(checks) == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn core(data: &Path, settings: &Settings) -> Check {
    let name = "core";
    let device = match Device::load(data) {
        Ok(Some(device)) => device,
        Ok(None) => return Check::warn(name, "this device has not joined one", "join: `edge-agent join TOKEN`"),
        Err(error) => return Check::fail(name, crate::agent::one_line(&error), error.hint),
    };
    let addresses = settings.core.addresses_or(&device.card.addresses);
    let mut tried = Vec::new();
    for address in addresses {
        match tokio::time::timeout(CORE_WAIT, Box::pin(reach(&device, address))).await {
            Ok(Ok(found)) => return Check::ok(name, found),
            Ok(Err(error)) => tried.push(error.to_string()),
            Err(_) => tried.push(format!("{address} does not answer")),
        }
    }
    Check::fail(name, tried.join("; "), "check the network, and that UDP to the core's port is let through")
}

/// Only a handshake: a session would take the daemon's place.
async fn reach(device: &Device, address: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let candidates = resolve(address).await?;
    let mut last: Option<Box<dyn std::error::Error + Send + Sync>> = None;
    for candidate in candidates {
        match connect(candidate, &device.identity, &ClientOptions::default()).await {
            Ok(connection) => {
                let rtt = connection.rtt();
                connection.close(0u32.into(), b"");
                return Ok(format!("{address} answers as the core that this device joined, in {} ms", rtt.as_millis()));
            }
            Err(error) => last = Some(error.into()),
        }
    }
    Err(last.unwrap_or_else(|| format!("{address} is no address").into()))
}

/// Makes all checks and prints them.
pub(crate) async fn run(
    data: &Path,
    config: Option<&Path>,
    print: impl FnOnce(&[Check]),
) -> Result<ExitCode, CodedError> {
    let checks = checks(data, config).await;
    print(&checks);
    Ok(exit_code(&checks))
}
