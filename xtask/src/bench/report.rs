//! The table of figures: on the screen, and in docs/benchmarks.md.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process::{output, root};

/// What stands before and after what a run writes into the page; the name between them tells the sections apart.
const END: &str = "<!-- end of figures -->";
const SECTION: &str = "figures: written by `cargo xtask bench`";

/// One figure as it was measured.
struct Line {
    figure: String,
    place: String,
    measured: String,
    baseline: String,
    bar: String,
    verdict: Option<bool>,
}

/// All figures of a run.
pub(super) struct Report {
    machine: String,
    lines: Vec<Line>,
}

/// What was measured, against what.
pub(super) struct Measured<'m> {
    pub(super) figure: &'m str,
    pub(super) place: &'m str,
    pub(super) ours: String,
    pub(super) baseline: String,
    pub(super) bar: &'m str,
    /// Whether the bar is reached; none where there was nothing to compare with.
    pub(super) reached: Option<bool>,
}

impl Report {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { machine: machine()?, lines: Vec::new() })
    }

    pub(super) fn add(&mut self, measured: Measured<'_>) {
        let Measured { figure, place, ours: measured, baseline, bar, reached } = measured;
        println!("{figure} [{place}]: {measured}; {baseline}; bar {bar}: {}", verdict(reached));
        let (figure, place, bar) = (figure.to_owned(), place.to_owned(), bar.to_owned());
        self.lines.push(Line { figure, place, measured, baseline, bar, verdict: reached });
    }

    pub(super) fn failed(&mut self, name: &str, error: &anyhow::Error) {
        self.lines.push(Line {
            figure: name.to_owned(),
            place: String::new(),
            measured: format!("failed: {}", format!("{error:#}").lines().next().unwrap_or_default()),
            baseline: String::new(),
            bar: String::new(),
            verdict: Some(false),
        });
    }

    /// The table in Markdown.
    pub(super) fn text(&self) -> String {
        let mut text = String::from(
            "| figure | where | measured | baseline in the same run | bar | |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        for Line { figure, place, measured, baseline, bar, verdict: reached } in &self.lines {
            writeln!(text, "| {figure} | {place} | {measured} | {baseline} | {bar} | {} |", verdict(*reached))
                .expect("writing into a string can't fail");
        }
        text
    }

    /// Puts the table into docs/benchmarks.md.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let text = format!("{}, `cargo xtask bench`, {}:\n\n{}", when()?, self.machine, self.text());
        write_section(SECTION, &text)
    }

    /// Fails if a figure did.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let missed = self.lines.iter().filter(|line| line.verdict == Some(false)).count();
        if missed > 0 {
            bail!("{missed} figure(s) below their bar");
        }
        Ok(())
    }
}

/// The date and the commit.
pub(crate) fn when() -> anyhow::Result<String> {
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let commit = output(Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).current_dir(root()))?;
    Ok(format!("{}, commit {}", date.trim(), commit.trim()))
}

/// The machine, in words.
pub(crate) fn machine() -> anyhow::Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let kernel = output(Command::new("uname").arg("-sr"))?;
    Ok(format!("{} cores ({}), {}", cores(), model.trim_start_matches(['\t', ' ', ':']), kernel.trim()))
}

/// Replaces a section of docs/benchmarks.md.
pub(crate) fn write_section(section: &str, text: &str) -> anyhow::Result<()> {
    let path = root().join("docs/benchmarks.md");
    let page = fs::read_to_string(&path).with_context(|| format!("{} can't be read", path.display()))?;
    let opening = format!("<!-- {section} -->");
    let begin = page.find(&opening);
    let end = begin.and_then(|begin| Some(begin + page[begin..].find(END)?));
    let (Some(begin), Some(end)) = (begin, end) else {
        bail!("{} has no place for these figures: the lines `{opening}` and `{END}`", path.display());
    };
    fs::write(&path, format!("{}{opening}\n\n{}\n\n{}", &page[..begin], text.trim_end(), &page[end..]))?;
    println!("written to {}", path.display());
    Ok(())
}

/// Cores of this machine.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A verdict in a table.
pub(crate) fn verdict(reached: Option<bool>) -> &'static str {
    match reached {
        Some(true) => "reached",
        Some(false) => "**missed**",
        None => "not compared",
    }
}

/// Mebibytes for people.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A rate for people.
pub(super) fn rate(bytes: u64, seconds: f64) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / seconds)
}
