//! A small virtual machine with Debian's own kernel, for what this machine's kernel may lack: network emulation today, kernel
//! modules as a list, programs as a list.
//!
//! QEMU emulates the processor: virtual machines offer virtual machines a KVM that hangs or fails, and a lab must be the same
//! everywhere. So speeds mean nothing, except those that the emulated links limit, beside one another in one run. The guest's file system is in its memory and goes with it. Its only connection is the console.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::archive::Archive;
use crate::process::{on_path, output, target_dir};

/// The Debian package that stands for the newest kernel: not the one for clouds, which lacks modules.
const KERNEL_PACKAGE: &str = "linux-image-amd64";
/// What the guest says at its end, before the script's exit status.
const EXIT: &str = "LAB-EXIT ";
/// Places in which programs are found beside those of `PATH`.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What the guest is to be.
pub(super) struct Guest<'g> {
    /// Kernel modules; what they need is loaded before them.
    pub(super) modules: &'g [&'g str],
    /// Programs of this machine, by name or path; they lie in `/bin` with the libraries they load where they are here.
    pub(super) programs: Vec<PathBuf>,
    /// Files of this machine, with their paths in the guest.
    pub(super) files: Vec<(String, PathBuf)>,
    /// Run by busybox's shell, in which `/bin` is the `PATH`.
    pub(super) script: String,
    /// Whether programs keep the names of their functions, as a profile needs them.
    pub(super) keeps_names: bool,
    /// Memory, in MiB.
    pub(super) memory_mib: u32,
    /// How long it may run.
    pub(super) limit: Duration,
}

/// Why there can be no guest on this machine, or none if there can be.
pub(super) fn lacking() -> Option<String> {
    let programs = ["qemu-system-x86_64", "busybox", "depmod", "ip", "tc"];
    let lacking: Vec<_> = programs.into_iter().filter(|program| find(program).is_err()).collect();
    if !lacking.is_empty() {
        return Some(format!("there is no {} (`cargo xtask setup`)", lacking.join(", ")));
    }
    kernel().err().map(|error| format!("Debian's kernel can't be had: {error:#}"))
}

impl Guest<'_> {
    /// Boots it, runs the script, and gives each line that it prints to `say`. Fails if the script does.
    pub(super) fn run(&self, mut say: impl FnMut(&str)) -> anyhow::Result<()> {
        let kernel = kernel()?;
        let folder = target_dir().join("lab").join(format!("guest-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let outcome = self.boot(&kernel, &folder, &mut say);
        // What can't be removed only takes room.
        let _ = fs::remove_dir_all(&folder);
        match outcome? {
            Some(0) => Ok(()),
            Some(status) => bail!("the script in the guest failed with {status}"),
            None => bail!("the guest ended, or was ended after {} s, before its script", self.limit.as_secs()),
        }
    }

    fn boot(&self, kernel: &Kernel, folder: &Path, say: &mut dyn FnMut(&str)) -> anyhow::Result<Option<i32>> {
        let image = folder.join("initrd");
        self.write_image(kernel, &image)?;
        let mut child = Command::new(find("qemu-system-x86_64")?)
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-nic", "none", "-no-reboot", "-nographic"])
            .args(["-smp", &std::thread::available_parallelism()?.to_string(), "-m", &format!("{}M", self.memory_mib)])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&image)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("QEMU can't be started")?;
        let lines = child.stdout.take().context("stdout is piped")?;
        let limit = self.limit;
        let (ended, wait_end) = std::sync::mpsc::channel::<()>();
        let id = rustix::process::Pid::from_child(&child);
        let guard = std::thread::spawn(move || {
            if wait_end.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // It may have ended at this very moment; it has not been waited for, so the number is still its own.
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
        });
        let mut status = None;
        for line in BufReader::new(lines).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end_matches('\r').to_owned();
            match line.split_once(EXIT) {
                Some((_, code)) => status = code.trim().parse().ok(),
                // What the firmware says is for a terminal.
                None if line.contains('\x1b') || line.starts_with("Booting from") => {}
                None => say(&line),
            }
        }
        drop(ended);
        let _ = guard.join();
        child.wait()?;
        Ok(status)
    }

    fn write_image(&self, kernel: &Kernel, image: &Path) -> anyhow::Result<()> {
        let mut archive = Archive::new(BufWriter::new(File::create(image)?));
        for folder in ["proc", "sys", "dev", "tmp", "run", "var/run", "root"] {
            archive.folder(folder)?;
        }
        let mut there = BTreeSet::new();
        for program in self.programs.iter().cloned().chain(["busybox", "ip", "tc"].map(PathBuf::from)) {
            let strip = if self.keeps_names { "--strip-debug" } else { "--strip-all" };
            add_program(&mut archive, &program, (image, strip), &mut there)?;
        }
        for (name, file) in &self.files {
            archive.copy(name, file)?;
        }
        archive.link("/bin/sh", "busybox")?;
        let mut init = include_str!("../../../simulations/lab/init.sh").to_owned();
        let mut loads = String::new();
        for module in kernel.load_order(self.modules)? {
            let name = format!("/modules/{}", module.file_name().context("a module is a file")?.to_string_lossy());
            if there.insert(name.clone()) {
                archive.copy(&name, &module)?;
                writeln!(loads, "busybox insmod {name} || echo \"lab: {name} can't be loaded\"")?;
            }
        }
        init = init.replace("# MODULES\n", &loads);
        archive.file("/init", init.as_bytes())?;
        archive.file("/script", self.script.as_bytes())?;
        archive.finish()?;
        Ok(())
    }
}

/// Puts a program into the archive, without its debugging symbols, and the libraries that it loads.
fn add_program<W: std::io::Write>(
    archive: &mut Archive<W>,
    program: &Path,
    (image, strip): (&Path, &str),
    there: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    let path = find(&program.to_string_lossy())?;
    let name = program.file_name().context("a program has a name")?.to_string_lossy();
    let small = image.with_file_name("stripped");
    let stripped = Command::new("strip").arg(strip).arg("-o").arg(&small).arg(&path).stderr(Stdio::null()).status();
    let from = if stripped.is_ok_and(|status| status.success()) { &small } else { &path };
    archive.copy(&format!("/bin/{name}"), from)?;
    // A program that is linked statically loads none, and `ldd` says so by failing.
    let libraries = output(Command::new("ldd").arg(&path)).unwrap_or_default();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        if there.insert(library.to_owned()) {
            archive.copy(library, Path::new(library))?;
        }
    }
    Ok(())
}

fn find(program: &str) -> anyhow::Result<PathBuf> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let system = SYSTEM_FOLDERS.map(PathBuf::from);
    let found =
        std::env::split_paths(&paths).chain(system).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("there is no program `{program}`"))
}

/// Debian's kernel and its modules.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

/// The kernel, unpacked in cargo's target folder; fetched from the distribution the first time.
fn kernel() -> anyhow::Result<Kernel> {
    let folder = target_dir().join("lab").join("kernel");
    if Kernel::in_folder(&folder).is_err() {
        if !on_path("apt-get") || !on_path("dpkg") {
            bail!("only Debian and Ubuntu have it as a package");
        }
        let begun = Instant::now();
        let depends = output(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
        let package =
            depends.split_whitespace().find(|word| word.starts_with("linux-image-") && *word != KERNEL_PACKAGE);
        let package = package.context("the package names no kernel; `apt-get update` may help")?;
        let parts = target_dir().join("lab").join(format!("fetched-{}", std::process::id()));
        fs::create_dir_all(&parts)?;
        output(Command::new("apt-get").args(["download", "-qq", package]).current_dir(&parts))?;
        let file = fs::read_dir(&parts)?.next().context("nothing was downloaded")??.path();
        let unpacked = parts.join("kernel");
        output(Command::new("dpkg").arg("-x").arg(&file).arg(&unpacked))?;
        let release = release_in(&unpacked)?;
        output(Command::new(find("depmod")?).arg("-b").arg(&unpacked).arg(release))?;
        // Another process may have been faster.
        let moved = fs::rename(&unpacked, &folder);
        let _ = fs::remove_dir_all(&parts);
        Kernel::in_folder(&folder).or_else(|error| moved.map_err(anyhow::Error::from).and(Err(error)))?;
        println!("{package} was fetched in {} s", begun.elapsed().as_secs());
    }
    Kernel::in_folder(&folder)
}

fn release_in(folder: &Path) -> anyhow::Result<String> {
    let modules = folder.join("lib/modules");
    let mut found = fs::read_dir(&modules).with_context(|| format!("{} can't be read", modules.display()))?;
    Ok(found.next().context("the kernel has no modules")??.file_name().to_string_lossy().into_owned())
}

impl Kernel {
    fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let release = release_in(folder)?;
        let modules = folder.join("lib/modules").join(&release);
        let image = folder.join("boot").join(format!("vmlinuz-{release}"));
        if !image.is_file() || !modules.join("modules.dep").is_file() {
            bail!("{} holds no whole kernel", folder.display());
        }
        Ok(Self { image, modules })
    }

    /// The files of these modules and of all that they need, in the order in which they can be loaded.
    fn load_order(&self, wanted: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let list = fs::read_to_string(self.modules.join("modules.dep"))?;
        let mut order = Vec::new();
        for module in wanted {
            let is_it = |path: &str| {
                Path::new(path)
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{module}.ko")))
            };
            let line = list.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| is_it(path));
            let (path, needs) = line.with_context(|| format!("the kernel has no module `{module}`"))?;
            order.extend(needs.split_whitespace().rev().chain([path]).map(|path| self.modules.join(path)));
        }
        Ok(order)
    }
}
