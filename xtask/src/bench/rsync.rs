//! rsync to an rsync daemon on loopback: no encryption and no hashes, which is what small files are measured against.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::usage::Guarded;
use crate::process::{on_path, run};
use crate::world::wait_for;

const READY_WITHIN: Duration = Duration::from_secs(10);

/// A running daemon that takes files into one folder.
pub(super) struct Rsync {
    _daemon: Guarded,
    address: String,
}

impl Rsync {
    /// Starts a daemon that stores under `folder`; none where there is no rsync.
    pub(super) fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        if !on_path("rsync") {
            return Ok(None);
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let data = folder.join("rsync-data");
        fs::create_dir_all(&data)?;
        let config = folder.join("rsyncd.conf");
        let owner =
            if Command::new("id").arg("-u").output()?.stdout.trim_ascii() == b"0" { "uid = 0\ngid = 0\n" } else { "" };
        fs::write(&config, format!("use chroot = no\n{owner}[data]\npath = {}\nread only = no\n", data.display()))?;
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
        command.arg(format!("--port={port}")).arg(format!("--config={}", config.display()));
        let daemon = Guarded(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        wait_for("rsync's daemon", READY_WITHIN, || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
        Ok(Some(Self { _daemon: daemon, address: format!("rsync://127.0.0.1:{port}/data/") }))
    }

    /// Copies a folder's contents and says how long that took.
    pub(super) fn copy(&self, from: &Path) -> anyhow::Result<Duration> {
        let mut from: PathBuf = from.to_owned();
        from.push("");
        let start = Instant::now();
        run(Command::new("rsync").arg("--archive").arg(&from).arg(&self.address))?;
        let took = start.elapsed();
        if took.is_zero() {
            bail!("rsync did nothing");
        }
        Ok(took)
    }
}
