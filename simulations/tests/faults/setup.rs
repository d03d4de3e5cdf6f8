//! Configurations, ports, data folders and catalogs that can't be used.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use simulations::processes::{AgentProcess, CoreProcess};

use crate::Pair;

#[test]
fn a_configuration_with_an_unknown_key() {
    let mut pair = Pair::synced();
    pair.core.stop();
    let file = pair.core.data().join("core.toml");
    let good = fs::read_to_string(&file).expect("read");
    for (line, key, nearest) in
        [("\nlissten = \"x\"\n", "lissten", "listen"), ("\n[network]\nmtu_maxx = 9000\n", "mtu_maxx", "mtu_max")]
    {
        fs::write(&file, format!("{good}{line}")).expect("written");
        for command in [&["config", "check"][..], &["run"]] {
            pair.core.run_command(command).failed("HW-5001", &[]).says(&[key, nearest]);
        }
    }
    fs::write(&file, good).expect("written");
    pair.core.run_command(&["config", "check"]).success();
    pair.core.run();

    let file = pair.publisher.data().join("agent.toml");
    let good = fs::read_to_string(&file).expect("read");
    for (line, key, nearest) in
        [("settel = \"1s\"\n", "settel", "settle"), ("[[publich]]\nfolder = \"/x\"\n", "publich", "publish")]
    {
        fs::write(&file, format!("{good}{line}")).expect("written");
        for command in [&["config", "check"][..], &["run"], &["sync", "--once"], &["status"]] {
            pair.publisher.run_command(command).failed("HW-5001", &[]).says(&[key, nearest]);
        }
    }
    fs::write(&file, good).expect("written");
    pair.still_works();
}

#[test]
fn a_configuration_with_a_value_that_can_not_be() {
    let core = CoreProcess::init();
    let file = core.data().join("core.toml");
    let good = fs::read_to_string(&file).expect("read");
    for (line, word) in [
        ("[network]\ncongestion = \"vegas\"\n", "vegas"),
        ("[network]\nidle_timeout = \"soon\"\n", "soon"),
        ("[memory]\ntransfers = \"1KiB\"\n", "memory.transfers"),
        ("[defaults]\nwrite = [\"a b\"]\n", "a b"),
        ("log = 3\n", "log"),
        ("this is no toml\n", "core.toml"),
    ] {
        fs::write(&file, format!("{good}\n{line}")).expect("written");
        core.run_command(&["run"]).failed("HW-5001", &[]).says(&[word]);
    }
    let agent = AgentProcess::new("north");
    let file = agent.data().join("agent.toml");
    for (text, word) in [
        ("[scan]\nsettle = \"soon\"\n", "soon"),
        ("[[publish]]\nfolder = \"relative\"\ndataset = \"a\"\n", "relative"),
        ("[[publish]]\nfolder = \"/a\"\ndataset = \"a\"\nmode = \"miror\"\n", "mirror"),
        ("[[publish]]\nfolder = \"/a\"\ndataset = \"a\"\n[[local]]\nfolder = \"/a/b\"\ndataset = \"b\"\n", "/a/b"),
    ] {
        fs::write(&file, text).expect("written");
        agent.run_command(&["config", "check"]).failed("HW-5001", &[]).says(&[word]);
    }
}

#[test]
fn a_port_that_is_in_use() {
    let mut pair = Pair::synced();
    pair.core.stop();
    let address = pair.core.address().to_string();
    let holder = UdpSocket::bind(pair.core.address()).expect("free");
    pair.core.run_command(&["run"]).failed("HW-5002", &[&address]);
    drop(holder);
    let holder = TcpListener::bind((pair.core.address().ip(), 0)).expect("free");
    let admin = holder.local_addr().expect("bound").to_string();
    pair.core.run_command(&["run", "--admin-listen", &admin]).failed("HW-5002", &[&admin]).says(&["admin_listen"]);
    drop(holder);
    pair.core.run_command(&["run", "--listen", "192.0.2.1:1"]).failed("HW-5007", &["192.0.2.1:1"]);
    pair.core.run();
    pair.still_works();
}

#[test]
fn a_data_folder_that_another_process_has_open() {
    let mut pair = Pair::synced();
    let data = pair.core.data().to_str().expect("plain").to_owned();
    pair.core.run_command(&["run"]).failed("HW-5003", &[&data, "process"]);
    pair.core.run_command(&["init"]).failed("HW-5003", &[&data]);
    pair.publisher.run();
    let data = pair.publisher.data().to_str().expect("plain").to_owned();
    pair.publisher.run_command(&["run"]).failed("HW-5003", &[&data, "process"]);
    // Commands go through the daemon that has it.
    assert_eq!(pair.publisher.ask(&["status"])["running"], true);
    pair.still_works();
    pair.publisher.stop();
    pair.still_works();
}

#[test]
fn a_daemon_that_does_not_run_and_a_folder_that_holds_nothing() {
    let core = CoreProcess::init();
    core.run_command(&["status"]).failed("HW-5004", &[]).says(&["core-node --data"]);
    core.run_command(&["init"]).failed("HW-2004", &[]);
    let agent = AgentProcess::new("north");
    let nothing = agent.scratch().join("nothing");
    let empty = CoreProcess::command_in(&nothing, &["run"]);
    simulations::processes::run(empty).failed("HW-5006", &["nothing"]);
    agent.run_command(&["sync", "--once", "--json"]);
    agent.run_command(&["leave"]).failed("HW-1012", &[]);
    agent.run_command(&["publish", "/nonesuch", "--dataset", "a"]).failed("HW-4004", &["/nonesuch"]);
}

#[test]
fn a_catalog_from_a_newer_release() {
    let mut pair = Pair::synced();
    pair.core.stop();
    let catalog = pair.core.data().join("catalog.db");
    let before = set_schema_version(&catalog, 1000);
    let bytes = fs::read(&catalog).expect("read");
    pair.core.run_command(&["run"]).failed("HW-6001", &["catalog.db"]);
    assert_eq!(fs::read(&catalog).expect("read"), bytes, "it was touched");
    set_schema_version(&catalog, before);
    pair.core.run();

    // An agent's catalog can be rebuilt, but not one that a newer release understands.
    let catalog = pair.publisher.data().join("catalog.db");
    let before = set_schema_version(&catalog, 1000);
    let bytes = fs::read(&catalog).expect("read");
    for command in [&["run"][..], &["status"], &["sync", "--once"]] {
        pair.publisher.run_command(command).failed("HW-6001", &["catalog"]);
    }
    assert_eq!(fs::read(&catalog).expect("read"), bytes, "it was touched");
    set_schema_version(&catalog, before);
    pair.still_works();
}

/// Sets the version of a catalog's layout; gives the one before.
fn set_schema_version(catalog: &Path, version: i64) -> i64 {
    let connection = rusqlite::Connection::open(catalog).expect("a database");
    let before = connection.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
    connection.pragma_update(None, "user_version", version).expect("set");
    connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").expect("written");
    before
}
