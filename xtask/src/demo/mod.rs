//! `demo`: the main job on real data, with real processes on loopback, and nothing taken on trust.
//!
//! Devices publish their folders to a core; one of them is killed half-way and started again; one file changes; another
//! device subscribes to the collection of all, and every file is compared byte by byte with where it came from. Then a training job reads
//! the collection; it is killed in mid-epoch, goes on with two ranks, and learns to tell the images apart. In the end devices train a
//! model together on what they have, over a killed core and a device that drops out.

mod compare;
mod data;
mod idx;
mod job;
mod rounds;
mod show;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::process::target_dir;
use crate::setup;
use crate::world::{Core, Device, Programs, wait_for};
use data::Data;
pub(crate) use data::fashion_mnist_pngs;

/// Deals out real pictures with labels to folders, a different part to each.
pub(crate) fn deal_pictures(folders: &[PathBuf]) -> anyhow::Result<()> {
    Data::best().deal(folders)
}
use job::Job;
use show::{Row, Table, bytes_text};
use watch::{Counters, Published};

/// How long all devices together may take to publish, and the subscriber to fetch.
const STAGE_WITHIN: Duration = Duration::from_mins(4);
/// How long the agent to be killed runs between two looks at how far it is.
const SLICE: Duration = Duration::from_millis(2);
/// Most devices.
const DEVICES_MAX: usize = 32;

/// What to show.
pub(crate) struct Options {
    /// A folder whose files are used instead of the demo's own data.
    pub(crate) data: Option<PathBuf>,
    /// Devices that publish.
    pub(crate) devices: usize,
    /// Use the small data set, as the tests do.
    pub(crate) short: bool,
    /// Leave the work folder in place.
    pub(crate) keep: bool,
}

/// A folder that goes when its owner does.
struct WorkFolder {
    path: PathBuf,
    keep: bool,
}

impl WorkFolder {
    fn make(keep: bool) -> anyhow::Result<Self> {
        let path = target_dir().join(format!("demo-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("{} can't be made", path.display()))?;
        Ok(Self { path, keep })
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if self.keep {
            println!("left in place: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} can't be removed: {error}", self.path.display());
        }
    }
}

/// Runs the demo; fails if anything does, or any file differs.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !(2..=DEVICES_MAX).contains(&options.devices) {
        bail!("--devices takes 2 to {DEVICES_MAX}: one is killed, and the others are what it is compared with");
    }
    let data = choose(options)?;
    println!("Building the programs");
    let programs = Programs::build(false)?;
    let started = Instant::now();
    let work = WorkFolder::make(options.keep)?;

    let mut stage = Stage::set(&programs, &work.path, &data, options.devices)?;
    let mut table = Table::default();
    stage.publish_all(&mut table)?;
    stage.change_one_file(&mut table)?;
    let copies = stage.subscribe_to_all(&programs, &work.path, &mut table)?;
    let differing = stage.compare(&copies)?;
    let job = Job::new(&programs, &stage.core, &work.path)?;
    job.read_killed_and_resumed(&mut table)?;
    if data.has_labels() {
        job.train(&mut table)?;
        let pixels = data.pixels();
        let trainers = rounds::devices(options.devices);
        rounds::train(&programs, &mut stage.core, &mut stage.devices[..trainers], pixels, &work.path, &mut table)?;
    }
    stage.stop()?;

    println!("\n{}", table.text());
    for note in table.notes() {
        println!("{note}");
    }
    println!("{:.1} s in all", started.elapsed().as_secs_f64());
    if differing > 0 {
        bail!("{differing} files differ");
    }
    Ok(())
}

fn choose(options: &Options) -> anyhow::Result<Data> {
    let data = match &options.data {
        Some(folder) => {
            Data::Folder(folder.canonicalize().with_context(|| format!("{} can't be used", folder.display()))?)
        }
        None if options.short => Data::Digits,
        None => {
            setup::ensure(&[setup::C_COMPILER, setup::FASHION_MNIST])?;
            Data::best()
        }
    };
    println!("Data: {}", data.describe());
    Ok(data)
}

/// The core, the devices and their folders.
struct Stage {
    core: Core,
    devices: Vec<Device>,
    folders: Vec<PathBuf>,
    published: Vec<Published>,
}

impl Stage {
    /// Deals out the data, starts the core, and joins the devices.
    fn set(programs: &Programs, base: &Path, data: &Data, count: usize) -> anyhow::Result<Self> {
        let names: Vec<_> = (1..=count).map(|number| format!("dev-{number}")).collect();
        let folders: Vec<_> = names.iter().map(|name| base.join("devices").join(name).join("pictures")).collect();
        for folder in &folders {
            fs::create_dir_all(folder)?;
        }
        let dealing = Instant::now();
        data.deal(&folders)?;
        println!("Dealt out to {count} devices in {:.1} s", dealing.elapsed().as_secs_f64());
        let core = Core::start(programs, base)?;
        let token = core.token(count + 1)?;
        let mut devices = Vec::new();
        let mut published = Vec::new();
        for (name, folder) in names.iter().zip(&folders) {
            let device = Device::join(programs, base, name, &token)?;
            let dataset = format!("cam/{name}");
            if data.has_labels() && devices.len() < rounds::devices(count) {
                device.set(&rounds::settings(programs, &dataset))?;
            }
            device.output(&["publish", &folder.to_string_lossy(), "--dataset", &dataset, "--every", "5s"])?;
            published.push(Published::of(name, &dataset, folder)?);
            devices.push(device);
        }
        println!("A core runs, and {count} devices have joined it");
        Ok(Self { core, devices, folders, published })
    }

    /// All devices publish; the second is killed half-way and started again.
    fn publish_all(&mut self, table: &mut Table) -> anyhow::Result<()> {
        println!("\nPublishing, and killing {} half-way", self.devices[1].name);
        let before = Counters::read(&self.core)?;
        let start = Instant::now();
        let mut progress = watch::Progress::new(&self.published);
        for device in &mut self.devices {
            device.run()?;
        }
        let at_kill = self.kill_half_way(&mut progress)?;
        wait_for("all devices to be in sync", STAGE_WITHIN, || {
            for device in &mut self.devices {
                device.daemon()?.check_alive()?;
            }
            self.core.daemon()?.check_alive()?;
            progress.look(&self.core)
        })?;
        progress.finish();
        let took = start.elapsed();
        let after = Counters::read(&self.core)?;
        let (files, bytes) = self.totals();
        table.push(Row::new("publish", files, bytes, &after.since(&before), took));
        self.say_cost_of_kill(at_kill, table)
    }

    /// Kills the second device when half of what it has to send has arrived; says how much had.
    ///
    /// Loopback is fast, so the agent runs in slices of a few milliseconds while it is watched: it can't finish unseen.
    fn kill_half_way(&mut self, progress: &mut watch::Progress) -> anyhow::Result<Option<u64>> {
        let goal = self.published[1].wire_estimate / 2;
        let name = self.devices[1].name.clone();
        let began = Instant::now();
        loop {
            std::thread::sleep(SLICE);
            let daemon = self.devices[1].daemon()?;
            daemon.check_alive()?;
            daemon.pause()?;
            let done = progress.look(&self.core)?;
            let arrived = progress.arrived(1);
            if arrived >= goal && !progress.is_done(1) {
                self.devices[1].kill()?;
                let percent = 50 * arrived / goal.max(1);
                progress.note(&format!("{name} killed with SIGKILL after {} (about {percent} %)", bytes_text(arrived)));
                self.devices[1].run()?;
                return Ok(Some(arrived));
            }
            self.devices[1].daemon()?.resume()?;
            if done || progress.is_done(1) {
                progress.note(&format!("{name} had finished before it could be killed"));
                return Ok(None);
            }
            if began.elapsed() > STAGE_WITHIN {
                bail!("{name} sent only {} of about {} in {} s", arrived, 2 * goal, STAGE_WITHIN.as_secs());
            }
        }
    }

    /// What the killed device sent over both of its lives, against what the others needed for each byte of theirs.
    fn say_cost_of_kill(&mut self, at_kill: Option<u64>, table: &mut Table) -> anyhow::Result<()> {
        let Some(at_kill) = at_kill else { return Ok(()) };
        let sessions = watch::sessions(&self.core)?;
        let mut wire = 0u64;
        let mut plain = 0u64;
        for (index, published) in self.published.iter().enumerate().filter(|(index, _)| *index != 1) {
            wire += sessions.get(&self.devices[index].name).map_or(0, |session| session.in_bytes);
            plain += published.bytes;
        }
        let expected = u128::from(self.published[1].bytes) * u128::from(wire) / u128::from(plain.max(1));
        let second_life = sessions.get(&self.devices[1].name).map_or(0, |session| session.in_bytes);
        let more = i128::from(at_kill + second_life) - expected as i128;
        table.note(format!(
            "the kill cost {} on the wire: {} before it and {} after it, where {} would have done ({:+.1} %)",
            bytes_text(more.max(0) as u64),
            bytes_text(at_kill),
            bytes_text(second_life),
            bytes_text(expected as u64),
            100.0 * more as f64 / (expected as f64).max(1.0),
        ));
        Ok(())
    }

    /// One file of the first device changes.
    fn change_one_file(&mut self, table: &mut Table) -> anyhow::Result<()> {
        let files = data::files_under(&self.folders[0])?;
        let changed = files.first().context("the first device has no files")?.clone();
        let path = self.folders[0].join(&changed);
        println!("\nChanging one file, {}", changed.display());
        let before = Counters::read(&self.core)?;
        let number = watch::number_of(&self.core, &self.published[0].dataset)?;
        let mut bytes = fs::read(&path)?;
        bytes.extend_from_slice(b"\nchanged by the demo\n");
        let start = Instant::now();
        fs::write(&path, &bytes)?;
        wait_for("the changed file to arrive", STAGE_WITHIN, || {
            self.devices[0].daemon()?.check_alive()?;
            Ok(watch::number_of(&self.core, &self.published[0].dataset)? > number)
        })?;
        let took = start.elapsed();
        let spent = Counters::read(&self.core)?.since(&before);
        println!(
            "its {} cost {} on the wire",
            bytes_text(bytes.len() as u64),
            bytes_text(spent.wire_in + spent.wire_out)
        );
        table.push(Row::new("change one file", 1, bytes.len() as u64, &spent, took));
        Ok(())
    }

    /// Another device subscribes to the collection of all datasets; gives the folder in which they are.
    fn subscribe_to_all(&mut self, programs: &Programs, base: &Path, table: &mut Table) -> anyhow::Result<PathBuf> {
        println!("\nAnother device subscribes to the collection of all");
        crate::process::output(self.core.command().args(["collection", "create", "all", "--match", "cam/*"]))?;
        let token = self.core.token(1)?;
        let copies = base.join("devices/reader/all");
        let mut reader = Device::join(programs, base, "reader", &token)?;
        reader.output(&["subscribe", "all", "--to", &copies.to_string_lossy()])?;
        let (files, bytes) = self.totals();
        let before = Counters::read(&self.core)?;
        let start = Instant::now();
        let bar = watch::Fetching::new(bytes);
        reader.run()?;
        wait_for("the subscriber to have everything", STAGE_WITHIN, || {
            reader.daemon()?.check_alive()?;
            self.core.daemon()?.check_alive()?;
            bar.look(&self.core, "reader")?;
            Ok(self.published.iter().all(|published| compare::current(&copies, &published.dataset).exists()))
        })?;
        bar.finish();
        let took = start.elapsed();
        table.push(Row::new("subscribe", files, bytes, &Counters::read(&self.core)?.since(&before), took));
        self.devices.push(reader);
        Ok(copies)
    }

    /// Compares every copy with its original; says how many differ.
    fn compare(&self, copies: &Path) -> anyhow::Result<u64> {
        let start = Instant::now();
        let mut compared = 0;
        let mut differing = 0;
        for (folder, published) in self.folders.iter().zip(&self.published) {
            let outcome = compare::folders(folder, &compare::current(copies, &published.dataset))?;
            compared += outcome.compared;
            differing += outcome.differing.len() as u64;
            for path in outcome.differing.iter().take(10) {
                println!("differs: {}/{}", published.dataset, path.display());
            }
        }
        println!(
            "{compared} files compared byte by byte in {:.1} s, {differing} differ",
            start.elapsed().as_secs_f64()
        );
        Ok(differing)
    }

    /// Stops everything as an operator does.
    fn stop(&mut self) -> anyhow::Result<()> {
        for device in &mut self.devices {
            device.stop()?;
        }
        self.core.stop()
    }

    fn totals(&self) -> (u64, u64) {
        self.published.iter().fold((0, 0), |(files, bytes), one| (files + one.files, bytes + one.bytes))
    }
}
