//! The commands of a core through the real binary: what they print, and what bad input gets.

mod common;

use std::fs;
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::Duration;

use common::{TestCore, assert_coded, let_it_settle, listing, noise, sample};

/// How long the core may take to notice that a session was closed: far less than until one times out.
const SESSIONS_GONE_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_core_is_made_once_started_and_stopped() {
    let mut core = TestCore::init();
    assert_coded(&core.fails(&["init"], 1), "HW-2004");
    assert_coded(&core.fails(&["status"], 1), "HW-5004");
    core.run();
    let status = core.one(&["status"]);
    assert_eq!(status["name"], "core");
    assert!(core.ok(&["status"]).contains("core       core (release"));
    assert_coded(&core.fails(&["run"], 1), "HW-5003");
    core.stop();
    assert!(!core.data().join("address").exists());
    core.run();
}

#[test]
fn a_core_stops_although_long_work_runs_and_goes_on_afterwards() {
    let mut core = TestCore::start();
    let folder = core.base.path().join("endless");
    fs::create_dir(&folder).expect("made");
    // Reading so many zeros takes far longer than the core may take to stop.
    let file = fs::File::create(folder.join("zeros")).expect("made");
    file.set_len(8 << 40).expect("sparse");
    let mut import = core
        .command(&["import", folder.to_str().expect("text"), "--dataset", "lab/endless"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("started");
    while core.one(&["status"])["chunks"].as_u64() == Some(0) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    core.stop();
    assert!(!import.wait().expect("a status").success(), "its import came to no end");
    core.run();
    assert!(core.ok(&["verify"]).contains("no damage"));
    assert_eq!(core.ok(&["dataset", "list"]), "none\n");
}

#[test]
fn a_folder_without_a_core_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(common::PROGRAM)
            .arg("--data")
            .arg(folder.path())
            .args(arguments)
            .output()
            .expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stderr) = run(&["run"]);
    assert_eq!(code, Some(1));
    assert_coded(&stderr, "HW-5006");
    assert_eq!(run(&["frobnicate"]).0, Some(2));
}

#[test]
fn ports_in_use_are_named() {
    let core = TestCore::init();
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let taken = udp.local_addr().expect("an address").to_string();
    let stderr = core.fails(&["run", "--listen", &taken], 1);
    assert_coded(&stderr, "HW-5002");
    assert!(stderr.contains(&taken), "{stderr}");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = tcp.local_addr().expect("an address").to_string();
    assert_coded(&core.fails(&["run", "--admin-listen", &taken], 1), "HW-5002");
    assert_coded(&core.fails(&["run", "--listen", "203.0.113.7:1"], 1), "HW-5007");
}

#[test]
fn configuration_mistakes_are_found_in_one_go() {
    let core = TestCore::init();
    assert!(core.ok(&["config", "check"]).contains("is good"));
    let file = core.data().join("core.toml");
    fs::write(&file, "lisen = \"127.0.0.1:1\"\n[network]\ncongestion = \"warp\"\n[[rules]]\nread = [\"a b\"]\n")
        .expect("written");
    let stderr = core.fails(&["config", "check"], 1);
    assert_coded(&stderr, "HW-5001");
    assert!(stderr.contains("`lisen`") && stderr.contains("listen"), "the nearest known key is named: {stderr}");
    assert_coded(&core.fails(&["run"], 1), "HW-5001");
    let mistakes =
        "addresses = [\"nohost\"]\nlog = \"a=b=c\"\n[network]\ncongestion = \"warp\"\n[[rules]]\nread = [\"a b\"]\n";
    fs::write(&file, mistakes).expect("written");
    let stderr = core.fails(&["config", "check"], 1);
    for mistake in ["nohost", "a=b=c", "warp", "rules[0].read"] {
        assert!(stderr.contains(mistake), "{mistake}: {stderr}");
    }
    fs::remove_file(&file).expect("removed");
    assert_coded(&core.fails(&["config", "check"], 1), "HW-5001");
}

#[test]
fn a_catalog_from_a_newer_release_is_left_alone() {
    let core = TestCore::init();
    let path = core.data().join("catalog.db");
    let database = rusqlite::Connection::open(&path).expect("opened");
    database.pragma_update(None, "user_version", 9999).expect("set");
    drop(database);
    assert_coded(&core.fails(&["run"], 1), "HW-6001");
}

#[test]
fn tokens_come_and_go() {
    let core = TestCore::start();
    let made = core.one(&[
        "token",
        "create",
        "--uses",
        "3",
        "--lifetime",
        "2h",
        "--label",
        "site=x",
        "--write",
        "cam/{device}",
        "--read",
        "models/**",
        "--names",
        "cam-*",
    ]);
    assert!(made["token"].as_str().expect("text").starts_with("hw1-"), "{made}");
    assert!(core.ok(&["token", "create"]).starts_with("hw1-"));
    let listed = core.json(&["token", "list"]);
    assert_eq!(listed.len(), 2);
    let row = listed.iter().find(|row| row["id"] == made["id"]).expect("listed");
    assert_eq!(row["uses_left"], 3);
    assert_eq!(row["labels"]["site"], "x");
    assert!(core.ok(&["token", "list"]).contains("cam/{device}"));
    core.ok(&["token", "revoke", made["id"].as_str().expect("an id")]);
    assert_eq!(core.json(&["token", "list"]).len(), 1);
    assert_coded(&core.fails(&["token", "revoke", "nonesuch"], 1), "HW-2002");
    assert_coded(&core.fails(&["token", "create", "--write", "a b"], 2), "HW-5005");
    assert_coded(&core.fails(&["token", "create", "--label", "Site=x"], 2), "HW-5005");
    assert_eq!(core.json(&["device", "list"]).len(), 0);
    assert_eq!(core.ok(&["device", "list"]), "none\n");
    assert_coded(&core.fails(&["device", "show", "nobody"], 1), "HW-2002");
}

#[test]
fn a_folder_is_imported_listed_compared_exported_and_deleted() {
    let mut core = TestCore::start();
    let folder = core.base.path().join("source");
    sample(&folder);
    let_it_settle();
    let path = folder.to_str().expect("text");
    let made = core.one(&["import", path, "--dataset", "lab/sample"]);
    assert_eq!(made["number"], 1, "{made}");
    let again = core.one(&["import", path, "--dataset", "lab/sample"]);
    assert_eq!((&again["number"], &again["files_read"]), (&1.into(), &0.into()), "nothing changed: {again}");
    fs::write(folder.join("images/0005.txt"), "label changed").expect("written");
    fs::write(folder.join("images/new.txt"), "new").expect("written");
    fs::remove_file(folder.join("nothing")).expect("removed");
    let third = core.one(&["import", path, "--dataset", "lab/sample"]);
    assert_eq!(third["number"], 2, "{third}");
    assert!(third["files_read"].as_u64().expect("a number") < 10, "{third}");

    let listed = core.one(&["dataset", "list"]);
    assert_eq!(
        (&listed["name"], &listed["versions"], &listed["writer"]),
        (&"lab/sample".into(), &2.into(), &"core".into())
    );
    assert_eq!(core.json(&["dataset", "list", "--match", "other/*"]).len(), 0);
    assert_eq!(core.one(&["dataset", "show", "lab/sample@1"])["number"], 1);
    let log = core.json(&["dataset", "log", "lab/sample"]);
    assert_eq!(log.iter().map(|row| row["number"].as_u64()).collect::<Vec<_>>(), [Some(2), Some(1)]);
    assert_eq!(log[0]["parent"], log[1]["version"]);
    let files = core.json(&["dataset", "files", "lab/sample", "--under", "images/deep"]);
    assert!(files.iter().any(|row| row["path"] == "images/deep/zeros" && row["bytes"] == 500_000), "{files:?}");
    assert_eq!(core.json(&["dataset", "files", "lab/sample@1", "--limit", "5"]).len(), 5);
    assert_coded(&core.fails(&["dataset", "files", "lab/sample", "--under", "nowhere"], 1), "HW-2010");

    let changes = core.ok(&["dataset", "diff", "lab/sample@1", "lab/sample@2"]);
    assert!(changes.contains("~ images/0005.txt") && changes.contains("+ images/new.txt"), "{changes}");
    assert!(changes.lines().count() <= 3, "{changes}");

    let out = core.base.path().join("out");
    core.ok(&["dataset", "export", "lab/sample", out.to_str().expect("text")]);
    let mut expected = listing(&folder);
    let exported = listing(&out);
    // Append mode: what was deleted locally stays in later versions.
    expected.extend(exported.get(std::path::Path::new("nothing")).map(|kept| ("nothing".into(), kept.clone())));
    assert_eq!(exported.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(exported == expected, "the exported tree differs");
    assert_coded(&core.fails(&["dataset", "export", "lab/sample", out.to_str().expect("text")], 1), "HW-4009");

    core.ok(&["dataset", "tag", "lab/sample@1", "gold"]);
    assert_eq!(core.one(&["dataset", "show", "lab/sample@gold"])["number"], 1);
    assert_coded(&core.fails(&["dataset", "tag", "lab/sample@2", "gold"], 1), "HW-2004");
    assert_coded(&core.fails(&["dataset", "tag", "lab/sample@2", "7"], 1), "HW-2003");
    core.ok(&["dataset", "tag", "lab/sample", "gold", "--delete"]);
    assert_coded(&core.fails(&["dataset", "show", "lab/sample@gold"], 1), "HW-2002");
    core.ok(&["dataset", "retention", "lab/sample", "--keep-last", "5"]);
    assert_eq!(core.one(&["dataset", "list"])["retention"], "the newest 5");

    core.kill();
    core.run();
    assert!(core.ok(&["verify"]).contains("no damage"), "everything is still there after a kill");

    core.ok(&["dataset", "delete", "lab/sample"]);
    assert_eq!(core.ok(&["dataset", "list"]), "none\n");
    assert_coded(&core.fails(&["dataset", "show", "lab/sample"], 1), "HW-2002");
    let freed = core.one(&["gc"]);
    let bytes = |field: &str| freed[field].as_u64().expect("a number");
    assert_eq!(bytes("live_bytes"), 0, "{freed}");
    assert!(bytes("freed_bytes") > 3_000_000 && bytes("dead_bytes") == 0, "{freed}");
    assert_eq!(fs::read_dir(core.data().join("packs")).expect("listed").count(), 0, "the disk is free again");
}

#[test]
fn imports_refuse_what_they_must() {
    let core = TestCore::start();
    let data = core.data();
    assert_coded(&core.fails(&["import", "/nonesuch", "--dataset", "a"], 1), "HW-4004");
    assert_coded(&core.fails(&["import", data.to_str().expect("text"), "--dataset", "a"], 1), "HW-4009");
    let folder = core.base.path().join("source");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("a"), "a").expect("written");
    assert_coded(&core.fails(&["import", folder.to_str().expect("text"), "--dataset", "../a"], 1), "HW-2003");
}

#[test]
fn collections_are_numbered_lists_of_versions() {
    let core = TestCore::start();
    for name in ["cam/1", "cam/2", "other"] {
        let folder = core.base.path().join(name.replace('/', "-"));
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("file"), name).expect("written");
        core.ok(&["import", folder.to_str().expect("text"), "--dataset", name]);
    }
    let made = core.one(&["collection", "create", "all", "--match", "cam/*"]);
    assert_eq!((&made["number"], &made["members"]), (&1.into(), &2.into()));
    assert_coded(&core.fails(&["collection", "create", "all", "--match", "cam/*"], 1), "HW-2004");
    assert_coded(&core.fails(&["collection", "create", "none", "--match", "x/*"], 1), "HW-2002");
    let shown = core.ok(&["collection", "show", "all"]);
    assert!(shown.contains("cam/1@1") && shown.contains("cam/2@1") && !shown.contains("other"), "{shown}");
    assert_eq!(core.json(&["collection", "list"]).len(), 1);
    assert_coded(&core.fails(&["collection", "show", "all@7"], 1), "HW-2002");
}

#[test]
fn verify_finds_damage_and_the_next_import_mends_it() {
    let mut core = TestCore::start();
    let folder = core.base.path().join("source");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("large.bin"), noise(3, 2_000_000)).expect("written");
    core.ok(&["import", folder.to_str().expect("text"), "--dataset", "lab/large"]);
    core.stop();
    let packs = core.data().join("packs");
    let pack = fs::read_dir(&packs)
        .expect("listed")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 1_000_000));
    let pack = pack.expect("a pack with the chunks");
    let mut bytes = fs::read(&pack).expect("read");
    bytes[1_000_000] ^= 0xff;
    fs::write(&pack, bytes).expect("written");
    core.run();
    let output = core.output(&["verify"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("lab/large"), "who needs the chunk is named: {stdout}");
    let doctor = core.output(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("1 chunks are damaged"));
    core.ok(&["import", folder.to_str().expect("text"), "--dataset", "lab/large"]);
    assert_eq!(core.one(&["dataset", "list"])["versions"], 1, "nothing changed but in the store");
    assert!(core.ok(&["verify"]).contains("no damage"));
}

#[test]
fn metrics_and_the_status_page_are_served() {
    let core = TestCore::start();
    let metrics = core.http("/metrics");
    for name in [
        "headwater_core_sessions ",
        "headwater_core_datasets ",
        "headwater_core_store_bytes",
        "headwater_core_up_seconds",
    ] {
        assert!(metrics.contains(name), "no {name} in {metrics}");
    }
    assert_eq!(core.http("/healthz"), "ok\n");
    assert!(core.http("/").contains("<h1>core</h1>"));
}

#[test]
fn doctor_says_what_it_looked_at() {
    let core = TestCore::start();
    let findings = core.json(&["doctor"]);
    for what in ["disk", "keys", "clock", "store", "address"] {
        assert!(findings.iter().any(|finding| finding["what"] == what), "{what} is missing");
    }
}

#[test]
fn another_core_is_asked_under_a_role() {
    let core = TestCore::start();
    let address = fs::read_to_string(core.data().join("address")).expect("an address").trim().to_owned();
    let identity = core.base.path().join("admin");
    let reader = core.base.path().join("reader");
    for (role, place) in [("admin", &identity), ("reader", &reader)] {
        let token = core.ok(&["token", "create", "--role", role]);
        core.ok(&["login", token.trim(), "--name", role, "--identity", place.to_str().expect("text")]);
    }
    let far = |place: &std::path::Path, arguments: &[&str]| {
        let place = place.to_str().expect("text");
        let mut all = vec!["--core", address.as_str(), "--identity", place];
        all.extend(arguments);
        core.output(&all)
    };
    for _ in 0..3 {
        let output = far(&identity, &["status"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
    }
    assert!(far(&reader, &["dataset", "list"]).status.success());
    let begun = std::time::Instant::now();
    while core.json(&["status"])[0]["sessions"] != serde_json::json!([]) {
        assert!(
            begun.elapsed() < SESSIONS_GONE_WITHIN,
            "commands that ended left their sessions: {:?}",
            core.json(&["status"])
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let refused = far(&reader, &["token", "create"]);
    assert_coded(&String::from_utf8_lossy(&refused.stderr), "HW-2006");
    core.ok(&["device", "revoke", "admin"]);
    let revoked = far(&identity, &["status"]);
    assert_coded(&String::from_utf8_lossy(&revoked.stderr), "HW-1010");
    assert_coded(
        &core.fails(&["login", "hw1-mistyped", "--identity", core.base.path().join("x").to_str().expect("text")], 1),
        "HW-1003",
    );
}

#[test]
fn a_command_that_fails_prints_nothing_where_data_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = std::process::Command::new(common::PROGRAM);
    let output = command.arg("--data").arg(folder.path()).arg("status").output().expect("it runs");
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]));
    let core = TestCore::start();
    assert_eq!(core.ok(&["dataset", "list"]), "none\n");
    let missing = core.output(&["dataset", "show", "nonesuch"]);
    assert_eq!((missing.status.code(), &*missing.stdout), (Some(1), &b""[..]));
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is_one() {
    let core = TestCore::start();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = core.command(&["status"]).stdout(writer).stderr(Stdio::piped()).output().expect("it runs");
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let output = core.command(&["status"]).stdout(full).stderr(Stdio::piped()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert_coded(&String::from_utf8_lossy(&output.stderr), "HW-4006");
}
