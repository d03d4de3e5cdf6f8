//! Real daemons over a link between network namespaces: that it can be measured, not what comes of it.

use std::path::Path;
use std::process::Command;

use simulations::processes::{Program, program, say_skipped};

#[test]
fn an_agent_sends_over_a_link_between_namespaces() {
    let lacking = [
        (!rustix::process::geteuid().is_root(), "root"),
        (!Path::new("/dev/net/tun").exists(), "/dev/net/tun"),
        (!Path::new("/usr/bin/unshare").exists(), "unshare"),
        (!has("ip"), "ip, of the package iproute2"),
        (!has("rsync"), "rsync"),
    ];
    if let Some((_, what)) = lacking.into_iter().find(|(lacks, _)| *lacks) {
        say_skipped(&format!("links between namespaces need {what}"));
        return;
    }
    let programs = program(Program::Core).with_file_name("");
    let output = Command::new(env!("CARGO_BIN_EXE_simulations"))
        .args(["links", "--seconds", "8", "--sender", "bdp", "20 Mbit/s, 200 ms, no loss"])
        .env("HEADWATER_TEST_PROGRAMS", programs)
        .output()
        .expect("it runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let row = said.lines().find(|line| line.starts_with("| 20 Mbit/s, 200 ms, no loss | agent, bdp |"));
    let cells: Vec<&str> = row.unwrap_or_default().split('|').map(str::trim).collect();
    let in_all = cells.get(4).and_then(|cell| cell.strip_suffix(" %")).and_then(|share| share.parse::<u32>().ok());
    assert!(in_all.is_some_and(|share| share > 0), "{said}");
    let trips = cells.get(5).and_then(|cell| cell.strip_suffix(" ×")).and_then(|trips| trips.parse::<f64>().ok());
    assert!(trips.is_some_and(|trips| trips >= 1.0), "no packet is faster than the link: {said}");
}

fn has(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|folder| Path::new(folder).join(program).exists())
}
