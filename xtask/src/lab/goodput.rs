//! The goodput of daemons and of rsync over emulated links, one after the other in one guest.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;

use super::{Guest, LINK_MODULES, LINKS};
use crate::bench::report;
use crate::process::on_path;
use crate::world::Programs;

/// Controllers that are measured beside rsync over TCP, which uses the kernel's CUBIC.
const CONTROLLERS: [&str; 2] = ["bdp", "cubic"];
/// How long all of it may take.
const LIMIT: Duration = Duration::from_mins(40);
/// What opens the line of a figure.
const FIGURE: &str = "LAB-FIGURE ";
/// Marks of the section of docs/benchmarks.md.
const SECTION: &str = "goodput in the lab: written by `cargo xtask lab goodput`";

/// A link, what is sent over it, and what must be reached. An emulated processor that is shared with others carries 4 Mbit/s with
/// room to spare, and not 20.
struct Lane {
    key: &'static str,
    name: &'static str,
    kbit: u64,
    rtt_ms: u64,
    loss_percent: u64,
    bytes: u64,
    limit_s: u64,
    /// Share of the rate, and round trip over that of the empty link.
    bar: (f64, f64),
}

const LANES: [Lane; 5] = [
    Lane {
        key: "clean",
        name: "4 Mbit/s, 200 ms, no loss",
        kbit: 4000,
        rtt_ms: 200,
        loss_percent: 0,
        bytes: 6 << 20,
        limit_s: 30,
        bar: (0.92, 1.5),
    },
    Lane {
        key: "lossy",
        name: "4 Mbit/s, 200 ms, 2 % loss each way",
        kbit: 4000,
        rtt_ms: 200,
        loss_percent: 2,
        bytes: 6 << 20,
        limit_s: 30,
        bar: (0.88, 1.5),
    },
    Lane {
        key: "bad",
        name: "4 Mbit/s, 200 ms, 10 % loss each way",
        kbit: 4000,
        rtt_ms: 200,
        loss_percent: 10,
        bytes: 6 << 20,
        limit_s: 30,
        bar: (0.75, 1.5),
    },
    Lane {
        key: "satellite",
        name: "4 Mbit/s, 600 ms, 1 % loss each way",
        kbit: 4000,
        rtt_ms: 600,
        loss_percent: 1,
        bytes: 8 << 20,
        limit_s: 30,
        bar: (0.85, 1.5),
    },
    Lane {
        key: "narrow",
        name: "256 kbit/s, 1 s, 5 % loss each way",
        kbit: 256,
        rtt_ms: 1000,
        loss_percent: 5,
        bytes: 512 << 10,
        limit_s: 40,
        bar: (0.6, 2.0),
    },
];

/// What one sender came to on one link.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    lane: String,
    who: String,
    /// Share of the link's rate that was payload, from the fifth second on, and from the beginning.
    share: f64,
    share_in_all: f64,
    round_trip_ms: f64,
    complete: bool,
}

/// Measures, prints, and writes the report if all of it was measured.
pub(super) fn run(names: &[String]) -> anyhow::Result<()> {
    let lanes: Vec<&Lane> = LANES
        .iter()
        .filter(|lane| names.is_empty() || names.iter().any(|name| lane.key.contains(name) || lane.name.contains(name)))
        .collect();
    if lanes.is_empty() {
        bail!("there is no such link; there are {}", LANES.map(|lane| lane.key).join(", "));
    }
    let programs = Programs::build(false)?;
    let mut of_guest = vec![programs.core.clone(), programs.agent.clone()];
    of_guest.extend(on_path("rsync").then(|| PathBuf::from("rsync")));
    let mut list = String::new();
    for lane in &lanes {
        let Lane { key, kbit, rtt_ms, loss_percent, bytes, limit_s, .. } = lane;
        writeln!(list, "{key} {kbit} {rtt_ms} {loss_percent} {bytes} {limit_s}")?;
    }
    let script = format!(
        "CONTROLLERS='{}'\nLINKS='{list}'\n{LINKS}\n{}",
        CONTROLLERS.join(" "),
        include_str!("../../../simulations/lab/goodput.sh")
    );
    let guest = Guest { modules: &LINK_MODULES, programs: of_guest, script, memory_mib: 2048, limit: LIMIT };
    let mut figures = Vec::new();
    guest.run(|line| {
        println!("  {line}");
        figures.extend(figure_of(line));
    })?;
    let table = table(&lanes, &figures)?;
    println!("\n{table}");
    if names.is_empty() {
        let text = format!("{}, `cargo xtask lab goodput`, {}:\n\n{table}", report::when()?, report::machine()?);
        report::write_section(SECTION, &text)?;
    } else {
        println!("docs/benchmarks.md is left as it is: it holds the figures of one whole run");
    }
    Ok(())
}

/// Reads a line that the guest printed, as simulations/lab/goodput.sh says.
fn figure_of(line: &str) -> Option<Figure> {
    let mut words = line.strip_prefix(FIGURE)?.split_whitespace();
    let (lane, who) = (words.next()?.to_owned(), words.next()?.to_owned());
    let numbers: Vec<f64> = words.map_while(|word| word.parse().ok()).collect();
    let [bytes, time, arrived, early, late, round_trip_ms, status] = numbers[..] else { return None };
    let rate = LANES.iter().find(|known| known.key == lane)?.kbit as f64 * 1000.0 / 8.0;
    let share = |part: f64, hundredths: f64| bytes * part / (hundredths / 100.0).max(0.01) / rate;
    let share_in_all = share(1.0, time);
    Some(Figure {
        share: if late > 0.0 && arrived > 0.0 { share(1.0 - early / arrived, late) } else { share_in_all },
        lane,
        who,
        share_in_all,
        round_trip_ms,
        complete: status == 0.0,
    })
}

fn table(lanes: &[&Lane], figures: &[Figure]) -> anyhow::Result<String> {
    let mut text = String::from(
        "| link | sender | goodput from second 5 | from the beginning | round trip | bar | |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for lane in lanes {
        for figure in figures.iter().filter(|figure| figure.lane == lane.key) {
            let trips = figure.round_trip_ms / lane.rtt_ms as f64;
            let (bar, verdict) = if figure.who == CONTROLLERS[0] {
                let reached = figure.complete && figure.share >= lane.bar.0 && trips <= lane.bar.1;
                (format!("≥ {:.0} %, ≤ {:.1} ×", 100.0 * lane.bar.0, lane.bar.1), report::verdict(Some(reached)))
            } else {
                (String::new(), "")
            };
            let who =
                if figure.who == "rsync" { "rsync over TCP".to_owned() } else { format!("agent, {}", figure.who) };
            let cut = if figure.complete { "" } else { " (cut at the limit)" };
            writeln!(
                text,
                "| {} | {who} | {:.0} %{cut} | {:.0} % | {:.0} ms ({trips:.2} ×) | {bar} | {verdict} |",
                lane.name,
                100.0 * figure.share,
                100.0 * figure.share_in_all,
                figure.round_trip_ms,
            )?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_guest_is_a_figure() {
        // 4 MB in 10 s, of which 1.6 MB in the first 5: 2.4 of 2.5 MB that the link carries in the rest.
        let figure = figure_of("LAB-FIGURE lossy bdp 4000000 1000 4400000 1760000 500 250.5 0").expect("a figure");
        assert_eq!((figure.lane.as_str(), figure.who.as_str(), figure.complete), ("lossy", "bdp", true));
        assert!((figure.share - 0.96).abs() < 1e-9 && (figure.share_in_all - 0.8).abs() < 1e-9, "{figure:?}");
        for line in ["LAB-FIGURE lossy bdp 1 2", "lab: something", "LAB-FIGURE unknown bdp 1 2 3 4 5 6 0"] {
            assert_eq!(figure_of(line), None);
        }
    }
}
