//! The same links as in virtual time, with what ships: real daemons, sockets and the kernel's TCP between network namespaces.

mod spaces;
mod wire;

use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use spaces::{CORE, DEVICE, Ends};
use wire::{Crossed, Wire};

use crate::goodput::scenarios;
use crate::goodput::{Capacity, FROM, Figures, Line, LinkShape, Nanos, SECOND, Scenario, table};

/// Says that the process is in namespaces of its own already.
const INSIDE: &str = "HEADWATER_LINKS_INSIDE";
/// Who sends where nobody is named: the agent with these controllers, and rsync.
const SENDERS: [Who; 3] = [Who::Agent("bdp"), Who::Agent("cubic"), Who::Rsync];
/// Seconds after which a sender is stopped where nothing else is said.
const SECONDS: u64 = 120;
/// A link that comes and goes is watched for so many of its turns.
const TURNS_WATCHED: u64 = 5;
/// What is ready to be sent where there is no end of it, over what the link carries in the time.
const READY_SHARE: f64 = 1.2;
/// Time between two looks at what has arrived.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why links could not be measured.
#[derive(Debug, thiserror::Error)]
enum LinksError {
    #[error("`{0}` can't be started: {1}")]
    Start(String, io::Error),
    #[error("`{0}` failed: {1}")]
    Failed(String, String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Agent(&'static str),
    Rsync,
}

impl Who {
    fn of(name: &str) -> Result<Self, String> {
        let known = SENDERS.into_iter().find(|known| match known {
            Self::Agent(controller) => *controller == name,
            Self::Rsync => name == "rsync",
        });
        known.ok_or(format!("`{name}` is no sender; there are bdp, cubic and rsync"))
    }

    fn name(self) -> String {
        match self {
            Self::Agent(controller) => format!("agent, {controller}"),
            Self::Rsync => "rsync over TCP".to_owned(),
        }
    }
}

/// `simulations links [--seconds N] [--sender WHO] [NAME ...] [FILE ...]`: gives the table once all was measured; none where this
/// process only started the one that did.
pub fn command(given: &[String]) -> Result<Option<String>, String> {
    if std::env::var_os(INSIDE).is_none() {
        return enter(given).map(|()| None);
    }
    let (mut seconds, mut senders, mut names, mut links) = (SECONDS, Vec::new(), Vec::new(), scenarios::all());
    let mut given = given.iter();
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("`{argument}` needs a value"));
        if argument == "--seconds" {
            let value = value()?;
            seconds = value.parse().map_err(|_| format!("`{value}` is no number"))?;
        } else if argument == "--sender" {
            senders.push(Who::of(value()?)?);
        } else if Path::new(argument).is_file() {
            links.extend(scenarios::recorded(Path::new(argument))?);
        } else {
            names.push(argument);
        }
    }
    links.retain(|link| names.is_empty() || names.iter().any(|name| link.name.contains(name.as_str())));
    if links.is_empty() {
        return Err("there is no such link, and no such file".to_owned());
    }
    if senders.is_empty() {
        senders.extend(SENDERS);
    }
    measure(&links, &senders, seconds).map(Some).map_err(|error| error.to_string())
}

/// Runs this program again, in namespaces of its own: of networks, of mounts, and of processes, so that none outlives it.
fn enter(given: &[String]) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| format!("this program can't be found: {error}"))?;
    // The first process of a namespace heeds only the signals that it has handlers for.
    let script =
        "mount -t tmpfs tmpfs /run && mkdir -p /run/netns && trap 'exit 130' INT TERM && { \"$@\" & wait $!; }";
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh"])
        .arg(program)
        .arg("links")
        .args(given)
        .env(INSIDE, "1")
        .status()
        .map_err(|error| format!("`unshare` can't be started: {error}"))?;
    if status.success() {
        return Ok(());
    }
    Err("namespaces and their links need root, /dev/net/tun, and the packages iproute2, util-linux and rsync"
        .to_owned())
}

fn good() -> LinkShape {
    LinkShape {
        capacity: Capacity::Constant(1_000_000_000),
        delay: 0,
        loss_permille: 0,
        queue_bytes: 1 << 20,
        turns: None,
    }
}

fn measure(links: &[Scenario], senders: &[Who], seconds: u64) -> Result<String, LinksError> {
    let wire = Wire::new(DEVICE.1, CORE.1, good(), good())?;
    spaces::make()?;
    let ends = Ends::start()?;
    let mut lines = Vec::new();
    for (number, link) in links.iter().enumerate() {
        let time = match link.turns {
            Some(turns) => (TURNS_WATCHED * (turns.up + turns.down)).max(seconds * SECOND),
            None => seconds * SECOND,
        };
        let link = Scenario { time: link.time.min(time), ..link.clone() };
        // Beside TCP, how TCP fares with itself is not the question.
        for &who in senders.iter().filter(|who| link.rival.is_none() || **who != Who::Rsync) {
            let run = Run { wire: &wire, ends: &ends, link: &link, link_seed: 1 + number as u64 };
            // What the core has already would not be sent.
            let figures = run.measure(who, lines.len() as u64)?;
            said(&link.name, who, &figures);
            lines.push(Line { link: link.name.clone(), sender: who.name(), bar: link.bar, figures });
        }
    }
    Ok(table(&lines))
}

/// Says for people how far it is.
#[allow(clippy::print_stderr, reason = "it is a command that takes long")]
fn said(link: &str, who: Who, figures: &Figures) {
    eprintln!("{link}, {}: {:.0} %, {:.2} ×", who.name(), 100.0 * figures.share, figures.rtt_mean);
}

/// One sender on one link.
struct Run<'a> {
    wire: &'a Wire,
    ends: &'a Ends,
    link: &'a Scenario,
    /// Draws what is lost.
    link_seed: u64,
}

/// How far a sender is.
struct Progress {
    at: Nanos,
    payload_bytes: u64,
    crossed: Crossed,
}

impl Run<'_> {
    fn measure(&self, who: Who, noise_seed: u64) -> Result<Figures, LinksError> {
        let room = self.link.carries(0, self.link.time);
        let bytes = self.link.bytes.unwrap_or((room as f64 * READY_SHARE) as u64);
        let folder = self.ends.noise(bytes, noise_seed)?;
        let dataset = format!("noise/{}", folder.path().file_name().unwrap_or_default().to_string_lossy());
        let dataset = dataset.replace('.', "");
        if let Who::Agent(controller) = who {
            self.ends.publish(controller, folder.path(), &dataset)?;
        }
        let (up, down) = self.link.shapes();
        self.wire.shape(up, down, self.link_seed);
        let rival = self.link.rival.map(|_| spaces::send_rsync(folder.path(), "rival")).transpose()?;
        let figures = self.watch(who, folder.path(), bytes);
        drop(rival);
        self.wire.shape(good(), good(), self.link_seed);
        if let Who::Agent(_) = who {
            self.ends.remove(&dataset)?;
        }
        figures
    }

    fn watch(&self, who: Who, folder: &Path, bytes: u64) -> Result<Figures, LinksError> {
        let before = self.ends.stored_bytes();
        let name = format!("{}", folder.file_name().unwrap_or_default().display());
        let payload = || match who {
            Who::Agent(_) => self.ends.stored_bytes().saturating_sub(before),
            Who::Rsync => self.ends.arrived_bytes(&name),
        };
        let began = Instant::now();
        let mut sender = match who {
            Who::Agent(_) => self.ends.send_agent()?,
            Who::Rsync => spaces::send_rsync(folder, &name)?,
        };
        let look = || Progress {
            at: began.elapsed().as_nanos() as Nanos,
            payload_bytes: payload().min(bytes),
            crossed: self.wire.crossed(),
        };
        let mut at_from = None;
        let end = loop {
            // The daemon goes on; rsync ends with its file, or because the link was down for too long.
            let ended = sender.0.try_wait()?.is_some() || payload() >= bytes;
            let elapsed = began.elapsed().as_nanos() as Nanos;
            if at_from.is_none() && elapsed >= FROM {
                at_from = Some(look());
            }
            if ended || elapsed >= self.link.time {
                break look();
            }
            thread::sleep(LOOK_EVERY);
        };
        let from = at_from.unwrap_or(Progress { at: 0, payload_bytes: 0, crossed: Crossed::default() });
        Ok(self.figures(who, &from, &end))
    }

    fn figures(&self, who: Who, from: &Progress, end: &Progress) -> Figures {
        let share = |bytes: u64, from: Nanos, to: Nanos| bytes as f64 / self.link.carries(from, to).max(1) as f64;
        let delays: Vec<_> = end.crossed.delays.iter().filter(|(at, _)| *at >= from.at).collect();
        let delay = delays.iter().map(|(_, delay)| *delay as f64).sum::<f64>() / delays.len().max(1) as f64;
        let udp = (end.crossed.udp_bytes - from.crossed.udp_bytes) as f64;
        let tcp = (end.crossed.tcp_bytes - from.crossed.tcp_bytes) as f64;
        Figures {
            share: share(end.payload_bytes - from.payload_bytes, from.at, end.at),
            share_in_all: share(end.payload_bytes, 0, end.at),
            rtt_mean: (delay + self.link.rtt as f64 / 2.0) / self.link.rtt as f64,
            fairness: if who == Who::Rsync { 1.0 } else { udp / (udp + tcp).max(1.0) },
        }
    }
}
