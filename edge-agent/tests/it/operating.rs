//! What an operator does besides syncing: joining again, watching, the doctor, the service manager, ignore rules.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use headwater_host::control::SOCKET_FILE;
use serde_json::Value;

use crate::support::{Core, Device, Running, assert_same, eventually, put, texts};

#[test]
fn a_device_whose_identity_was_removed_joins_again() {
    let core = Core::start();
    let device = core.device("first");
    let files = device.files("data");
    put(&files, "a.txt", "a");
    device.publish(&files, "data/{device}");
    device.sync();
    device.sync();
    // As the pages for a copied or an unreadable identity say.
    fs::remove_dir_all(device.data().join("identity")).expect("removed");
    device.run(&["join", &core.token(&["--read", "**"]), "--name", "second"]);
    device.sync();
    device.sync();
    assert_eq!(core.newest("data/second"), Some(1));
}

#[test]
fn a_daemon_whose_device_leaves_has_no_session_as_that_device_any_more() {
    let core = Core::start();
    let device = core.device("first");
    let files = device.files("data");
    put(&files, "a.txt", "a");
    device.publish(&files, "data/{device}");
    let daemon = device.start();
    let connected = |name: &str| {
        let list = core.run(&["device", "list", "--json"]);
        let mut known = list.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        known.any(|known| known["name"] == name && known["state"] == "connected")
    };
    eventually("the first version", || core.newest("data/first"));
    assert!(connected("first"));
    device.run(&["leave"]);
    eventually("the end of its session", || (!connected("first")).then_some(()));
    assert_eq!(device.json(&["status"])["link"], "not joined");
    device.run(&["join", &core.token(&["--write", "**", "--read", "**"]), "--name", "second"]);
    eventually("a session as the other", || connected("second").then_some(()));
    eventually("its version", || core.newest("data/second"));
    assert!(!connected("first"));
    daemon.stop();
}

#[test]
fn a_command_waits_for_a_daemon_that_is_just_starting() {
    let core = Core::start();
    let device = core.device("first");
    let daemon = device.start();
    let (socket, aside) = (device.data().join(SOCKET_FILE), device.data().join("aside"));
    eventually("the socket", || socket.exists().then_some(()));
    // As it is after the folder was locked, and before the socket is there.
    fs::rename(&socket, &aside).expect("moved");
    let name = std::thread::scope(|scope| {
        let asked = scope.spawn(|| device.json(&["status"])["device"].clone());
        std::thread::sleep(Duration::from_millis(700));
        fs::rename(&aside, &socket).expect("moved back");
        asked.join().expect("answered")
    });
    assert_eq!(name, "first");
    daemon.stop();
}

#[test]
fn removing_a_dataset_leaves_the_others_of_its_folder() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "a.txt", "a");
    device.publish(&files, "one/{device}");
    device.publish(&files, "two");
    device.run(&["remove", "one/cam1"]);
    device.sync();
    assert_eq!((core.newest("one/cam1"), core.newest("two")), (None, Some(1)));
    // A name is one folder's, however it is written.
    device.publish(&files, "one/{device}");
    let other = device.files("other");
    let other = other.to_str().expect("plain");
    let said = device.fails(&["publish", other, "--dataset", "one/cam1"]);
    assert!(said.contains("already") && said.contains("HW-"), "{said}");
    let said = device.fails(&["publish", other, "--dataset", "cam/{label.site}"]);
    assert!(said.contains("site"), "{said}");
    let said = device.fails(&["publish", other, "--dataset", "often", "--every", "0s"]);
    assert!(said.contains("every second"), "{said}");
}

#[test]
fn numbers_can_be_read_where_the_settings_say() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "a.txt", "a");
    device.publish(&files, "data");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    device.settings(&format!("[metrics]\nlisten = \"{free}\"\n"));
    let daemon = device.start();
    let ask = |path: &str| {
        let mut stream = std::net::TcpStream::connect(free).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    };
    let line = "headwater_agent_dataset_version{dataset=\"data\",role=\"publish\"} 1";
    let page = eventually("the version in the metrics", || ask("/metrics").filter(|page| page.contains(line)));
    for reason in ["first send", "re-sent after a cut", "retransmitted", "control", "received"] {
        let name = format!("headwater_agent_wire_bytes_total{{reason=\"{reason}\"}}");
        assert!(page.contains(&name), "no {name} in {page}");
    }
    assert!(ask("/healthz").is_some_and(|said| said.ends_with("ok\n")));
    daemon.stop();
    // Another program has the port: said as such.
    let _taken = std::net::TcpListener::bind(free).expect("free again");
    assert!(device.fails(&["run"]).contains("metrics.listen"));
    // Nowhere, if nobody says where.
    device.settings("");
    let daemon = device.start();
    assert!(device.json(&["status"])["running"] == true);
    daemon.stop();
}

#[test]
fn a_folder_that_is_published_again_keeps_its_settings() {
    let device = Device::new();
    let files = device.files("data");
    put(&files, "a.txt", "a");
    let settings = || fs::read_to_string(device.data().join("folders.toml")).expect("kept");
    let folder = files.to_str().expect("plain");
    let publish = |more: &[&str]| device.run(&[&["publish", folder, "--dataset", "data"], more].concat());
    publish(&["--mode", "mirror", "--every", "7m", "--quota", "1GiB", "--min-free", "2GiB", "--durability", "backup"]);
    let before = settings();
    for value in ["mirror", "7m", "1GiB", "2GiB", "backup"] {
        assert!(before.contains(value), "no {value}: {before}");
    }
    publish(&[]);
    assert_eq!(settings(), before);
    publish(&["--every", "8m"]);
    assert_eq!(settings(), before.replace("7m", "8m"));
    // Another folder has nothing of it, and neither has one that was removed in between.
    device.run(&["remove", "data"]);
    publish(&[]);
    assert!(!settings().contains("quota") && !settings().contains("mirror"), "{}", settings());
}

#[test]
fn the_token_can_come_from_standard_input() {
    let core = Core::start();
    // The token says that the core is somewhere else.
    let token = core.token(&["--read", "**", "--address", "127.0.0.1:9"]);
    let device = Device::new();
    let join = |token: &str| {
        let mut child = device
            .command(&["join", &core.address(), "--name", "typed"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        child.stdin.take().expect("a pipe").write_all(token.as_bytes()).expect("written");
        child.wait_with_output().expect("ends")
    };
    let nothing = join("");
    assert!(!nothing.status.success() && texts(&nothing).1.contains("HW-5005"), "{nothing:?}");
    let wrong = join("hello\n");
    assert!(!wrong.status.success() && texts(&wrong).1.contains("HW-1003"), "{wrong:?}");
    let joined = join(&format!("{token}\n"));
    assert!(joined.status.success(), "{joined:?}");
    // The address that was given is what later sessions use.
    let files = device.files("data");
    put(&files, "a.txt", "a");
    device.publish(&files, "data");
    device.sync();
    assert_eq!(core.newest("data"), Some(1));
}

#[test]
fn a_deletion_outlives_the_catalog() {
    let core = Core::start();
    let device = core.device("camera");
    let files = device.files("data");
    for name in ["keep.txt", "wrong.txt", "bad/1.txt", "bad/2.txt"] {
        put(&files, name, name);
    }
    device.publish(&files, "data");
    device.sync();
    device.run(&["delete", "data", "wrong.txt", "bad"]);
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = fs::remove_file(device.data().join(name));
    }
    device.sync();
    device.sync();
    let exported = core.export("data");
    assert_same(&files, &exported.path().join("out"));
    // Done is done: a file of the same name that comes later stays.
    put(&files, "wrong.txt", "right");
    device.sync();
    assert_same(&files, &core.export("data").path().join("out"));
}

#[test]
fn ignore_rules_stand_in_the_settings_and_mistakes_are_found() {
    let core = Core::start();
    let device = core.device("camera");
    let files = device.files("data");
    for name in ["a.txt", "a.tmp", "build/x", "notes.log", ".gitignore"] {
        put(&files, name, if name == ".gitignore" { "*.log\n" } else { name });
    }
    let scan = |more: &str| {
        let text = format!("[scan]\nsettle = \"0\"\n{more}");
        fs::write(device.data().join("agent.toml"), text).expect("written");
    };
    scan("ignore = [\"*.tmp\", \"build/\"]\ngitignore = true\n");
    device.run(&["config", "check"]);
    device.publish(&files, "data");
    device.sync();
    let exported = core.export("data");
    let mut names: Vec<_> = fs::read_dir(exported.path().join("out"))
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, [".gitignore", "a.txt"]);
    scan("ignore = [\"[z-a]\"]\n");
    assert!(device.fails(&["config", "check"]).contains("scan.ignore"));
    for (text, key) in [
        ("[core]\ncongestion = \"warp\"\n", "core.congestion"),
        ("[core]\naddresses = [\"nohost\"]\n", "core.addresses"),
        ("[log]\nfilter = \"a=b=c\"\n", "log.filter"),
    ] {
        fs::write(device.data().join("agent.toml"), text).expect("written");
        assert!(device.fails(&["config", "check"]).contains(key), "{key}");
    }
}

#[test]
fn a_mistyped_data_folder_is_said_and_not_made() {
    let device = Device::new();
    fs::remove_dir_all(device.data()).expect("removed");
    for command in [&["status"][..], &["log"], &["verify"], &["remove", "data"], &["leave"]] {
        let said = device.fails(command);
        assert!(said.contains("HW-4004") && said.contains("--data"), "{command:?}: {said}");
        assert!(!device.data().exists(), "{command:?} made the folder");
    }
}

#[test]
fn the_service_manager_hears_how_it_is() {
    let core = Core::start();
    let device = core.device("service");
    let path = device.folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_mins(1))).expect("set");
    let child = device
        .command(&["run"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "2000000")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let daemon = Running(child);
    let mut heard = String::new();
    let mut hear = |all: &[&str]| {
        let mut buffer = [0; 4096];
        eventually("what the service manager waits for", || {
            let length = socket.recv(&mut buffer).expect("a message");
            heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
            all.iter().all(|wanted| heard.contains(wanted)).then_some(())
        });
    };
    hear(&["READY=1", "WATCHDOG=1", "STATUS=connected"]);
    assert_eq!(daemon.stop(), Some(0));
    hear(&["STOPPING=1"]);
}

#[test]
fn status_is_said_again_until_stopped() {
    let core = Core::start();
    let device = core.device("watched");
    let _daemon = device.start();
    let child = device.command(&["status", "--watch", "--json"]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut watching = Running(child);
    let mut lines = BufReader::new(watching.0.stdout.take().expect("a pipe")).lines();
    for line in lines.by_ref().take(3) {
        let status: serde_json::Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        assert_eq!(status["device"], "watched");
    }
    assert_eq!(watching.0.try_wait().expect("asked").map(|status| status.code()), None, "it stopped by itself");
}

#[test]
fn the_doctor_says_what_is_wrong() {
    let core = Core::start();
    let device = core.device("patient");
    let said = device.json(&["doctor"]);
    let checks = said.as_array().or_else(|| said["checks"].as_array()).cloned().expect("checks");
    assert!(checks.len() >= 3, "{said}");
    let settings = fs::read_to_string(device.data().join("agent.toml")).expect("read");
    let gone = device.folder.path().join("gone");
    let text = format!("[[publish]]\nfolder = \"{}\"\ndataset = \"gone\"\n{settings}", gone.display());
    fs::write(device.data().join("agent.toml"), text).expect("written");
    let output = device.output(&["doctor"]);
    let (stdout, stderr) = texts(&output);
    assert!(!output.status.success(), "{stdout}{stderr}");
    assert!(format!("{stdout}{stderr}").contains("gone"), "{stdout}{stderr}");
}

#[test]
fn a_folder_is_scanned_every_so_often_without_a_watch() {
    let core = Core::start();
    let device = core.device("slow");
    fs::write(device.data().join("agent.toml"), "[scan]\nsettle = \"0\"\nwatch = false\n").expect("written");
    let files = device.files("data");
    put(&files, "a.txt", "a");
    device.run(&["publish", files.to_str().expect("UTF-8"), "--dataset", "data", "--every", "1s"]);
    let _daemon = device.start();
    eventually("the first version", || core.newest("data").filter(|&number| number == 1));
    put(&files, "b.txt", "b");
    eventually("the second version", || core.newest("data").filter(|&number| number == 2));
}
