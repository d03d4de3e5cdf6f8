//! The link's schedule and budget: what a device does while nothing may be sent, and what it says of that.

use crate::support::{Core, eventually, noise, put, texts};

#[test]
fn nothing_is_sent_while_the_schedule_says_so() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "one.txt", "one");
    device.publish(&files, "data");
    // All of the week but two hours on a day that is neither today nor tomorrow.
    let now_s = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let far = days[((now_s / 86_400 + 3 + 3) % 7) as usize];
    let stretch = |days: &str, from: &str, to: &str, more: &str| {
        format!("[[link.schedule]]\ndays = [{days}]\nfrom = \"{from}\"\nto = \"{to}\"\n{more}")
    };
    let week = stretch("", "00:00", "24:00", "up = \"0\"\n");
    device.settings(&format!("{}{week}", stretch(&format!("\"{far}\""), "03:00", "05:00", "")));
    let daemon = device.start();
    let status = eventually("a link that waits", || {
        let status = device.json(&["status"]);
        (status["link"] == "waiting" && status["backlog_bytes"] == 3).then_some(status)
    });
    let waits = status["waiting_for"].as_str().expect("text").to_owned();
    assert!(waits.starts_with("the schedule, which opens the link at ") && waits.contains("03:00 (UTC"), "{waits}");
    let (report, _) = texts(&device.output(&["sync", "--once", "--json"]));
    assert!(report.contains("HW-3009"), "{report}");
    assert_eq!(core.newest("data"), None);
    daemon.stop();

    device.settings("");
    device.sync();
    assert_eq!(core.newest("data"), Some(1));
    device.settings(&week);
    let said = device.fails(&["config", "check"]);
    assert!(said.contains("no minute of the week allows anything"), "{said}");
}

#[test]
fn a_month_costs_no_more_than_its_budget() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "large.bin", noise(7, 30 << 20));
    device.publish(&files, "data");
    device.settings("[link]\nup = \"40 Mbit/s\"\n[link.budget]\nmonth = \"13MiB\"\nreserve = \"1MiB\"\n");
    let daemon = device.start();
    let waiting = || {
        let status = device.json(&["status"]);
        (status["link"] == "waiting").then_some(status)
    };
    let status = eventually("a month that is spent", waiting);
    assert!(status["waiting_for"].as_str().is_some_and(|text| text.starts_with("the next month at ")), "{status}");
    let spent = status["month"]["spent_bytes"].as_u64().expect("a number");
    assert!((8 << 20..=12 << 20).contains(&spent), "{status}");
    assert!((7 << 20..13 << 20).contains(&core.stored()), "{} bytes came", core.stored());
    daemon.stop();

    // A restart forgets nothing.
    let daemon = device.start();
    let again = eventually("a month that is still spent", waiting)["month"]["spent_bytes"].as_u64().expect("a number");
    assert!((spent..=12 << 20).contains(&again), "{again} after {spent}");
    daemon.stop();
    device.settings("");
    device.sync();
    assert_eq!(core.newest("data"), Some(1));
}

#[test]
fn an_interface_has_rules_of_its_own() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "one.txt", "one");
    device.publish(&files, "data");
    // The tests' core is reached over loopback, whatever other way leads out of the machine.
    device.settings("[[link.interface]]\nname = \"lo\"\nup = \"0\"\n");
    let (report, _) = texts(&device.output(&["sync", "--once", "--json"]));
    assert!(report.contains("HW-3009") && report.contains("another network interface"), "{report}");
    assert_eq!(core.newest("data"), None);
    // What is not metered costs nothing, and has its own cap.
    let budget = "[link.budget]\nmonth = \"20MiB\"\n";
    device.settings(&format!("{budget}[[link.interface]]\nname = \"l*\"\nup = \"90 Mbit/s\"\n"));
    let daemon = device.start();
    eventually("the first version", || (core.newest("data") == Some(1)).then_some(()));
    let status = device.json(&["status"]);
    assert_eq!((&status["month"]["spent_bytes"], &status["up_cap_bytes_per_s"]), (&0.into(), &11_250_000.into()));
    daemon.stop();
    device.settings(&format!("{budget}[[link.interface]]\nname = \"l*\"\nmetered = true\n"));
    device.sync();
    let spent = device.json(&["status"])["month"]["spent_bytes"].as_u64().expect("a number");
    assert!(spent > 4000, "{spent} bytes of a session");
}
