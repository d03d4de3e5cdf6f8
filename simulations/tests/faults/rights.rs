//! Who learns what, and who may do what: labels, rules, roles, collections.

use std::fs;
use std::path::Path;

use serde_json::json;
use simulations::processes::{AgentProcess, CoreProcess, Operator, Rights, folder, wait_for};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Publishes a small folder of `agent` under `dataset`.
#[track_caller]
fn publish(agent: &AgentProcess, dataset: &str) {
    let source = agent.scratch().join(dataset.replace(['/', '{', '}'], "-"));
    folder::fill(&source, dataset.len() as u64, 3, 0);
    agent.publish(&source, dataset);
}

#[test]
fn what_a_limited_reader_may_not_read_is_named_nowhere() {
    let core = CoreProcess::start();
    let mut north = core.device("north");
    publish(&north, "open/a");
    publish(&north, "secret/a");
    north.sync();
    // An error that names a dataset, in the core's memory.
    let rival = core.device("rival");
    publish(&rival, "secret/a");
    rival.sync_once().problem("HW-2001", &["secret/a"]);
    north.run();
    for (name, matching) in [("everything", "**"), ("some", "open/*"), ("hush", "secret/*")] {
        core.run_command(&["collection", "create", name, "--match", matching]).success();
    }
    core.run_command(&["collection", "create", "empty", "--match", "secret-plans/*", "--every", "1h"]).success();
    let all = core.run_command(&["status"]).success().stdout + &core.run_command(&["device", "list"]).success().stdout;
    assert!(all.contains("secret/a"), "the operator is told: {all}");

    let reader = Operator::login(&core, "ann", &["--role", "reader", "--read", "open/**"]);
    for command in [
        &["dataset", "list"][..],
        &["device", "list"],
        &["device", "show", "north"],
        &["device", "show", "rival"],
        &["status"],
        &["collection", "list"],
    ] {
        for flags in [&[][..], &["--json"]] {
            let said = reader.says(&[command, flags].concat()).success();
            assert!(!said.stdout.contains("secret"), "{said:#?}");
        }
    }
    for hidden in ["everything", "hush", "empty", "nonesuch"] {
        let said = reader.says(&["collection", "show", hidden]).failed("HW-2002", &[hidden]);
        assert!(!said.stderr.contains("secret"), "{said:#?}");
    }
    assert_eq!(reader.list(&["dataset", "list"])[0]["name"], "open/a");
    assert_eq!(reader.list(&["device", "show", "north"])[0]["datasets"], json!(["open/a"]));
    assert_eq!(reader.list(&["collection", "list"]).len(), 1);
    assert_eq!(core.list(&["collection", "list"]).len(), 4, "who owns the machine sees them all");
    let status = &reader.list(&["status"])[0];
    assert!(status["errors"].to_string().contains("HW-2001"), "that there are errors is no secret: {status}");

    // Who makes a collection gets what he may read, and hears nothing of the rest.
    let writer = Operator::login(&core, "bob", &["--role", "writer", "--read", "open/**"]);
    let made = writer.list(&["collection", "create", "bobs", "--match", "**"]);
    assert_eq!(made[0]["members"], 1, "{made:?}");
    writer.says(&["collection", "create", "none", "--match", "secret/**"]).failed("HW-2002", &["secret/**"]);
    writer.says(&["collection", "delete", "hush"]).failed("HW-2002", &["hush"]);
    writer.says(&["collection", "delete", "bobs"]).success();
    reader.says(&["collection", "create", "anns", "--match", "**"]).failed("HW-2006", &[]);
}

#[test]
fn labels_and_rules_decide_names_and_rights_at_once() {
    let mut core = CoreProcess::init();
    let file = core.data().join("core.toml");
    let good = fs::read_to_string(&file).expect("read");
    let rules = "\n[defaults]\nwrite = []\n\n[[rules]]\nlabels = { site = \"berlin\" }\n\
                 write = [\"{label.site}/{device}/**\"]\nread = [\"models/**\"]\n";
    fs::write(&file, format!("{good}{rules}")).expect("written");
    core.run();
    let agent = AgentProcess::new("cam-1");
    let token = core.token(&["--label", "site=munich"]);
    agent.run_command(&["join", &token, "--name", "cam-1"]).success();
    publish(&agent, "{label.site}/{device}/day");
    agent.sync_once().problem("HW-2006", &["munich/cam-1/day"]);
    assert_eq!(core.list(&["dataset", "list"]).len(), 0);

    core.run_command(&["device", "label", "cam-1", "site=berlin", "line=3"]).success();
    let row = core.ask(&["device", "show", "cam-1"]);
    assert_eq!(row["labels"], json!({ "site": "berlin", "line": "3" }));
    wait_for("the new label to reach the device", || {
        agent.sync_once();
        core.list(&["dataset", "list"]).first().map(|row| assert_eq!(row["name"], "berlin/cam-1/day"))
    });
    core.run_command(&["device", "label", "cam-1", "line="]).success();
    assert_eq!(core.ask(&["device", "show", "cam-1"])["labels"], json!({ "site": "berlin" }));

    // What the rule lets it read reaches it; what it does not, does not.
    let models = core.scratch().join("models");
    folder::fill(&models, 5, 4, 0);
    for dataset in ["models/small", "other/small"] {
        core.run_command(&["import", text(&models), "--dataset", dataset]).success();
    }
    let copy = agent.subscribe("models/small");
    agent.sync();
    folder::assert_same(&models, &copy);
    core.run_command(&["device", "label", "cam-1", "site=munich"]).success();
    agent.subscribe("other/small");
    let said = agent.sync_once();
    assert!(!said.stdout.contains("HW-5008"), "{said:#?}");
    assert!(core.list(&["dataset", "log", "berlin/cam-1/day"]).len() == 1, "its versions stay");
}

#[test]
fn a_collection_follows_labels_on_its_schedule_and_keeps_as_many_as_it_should() {
    let core = CoreProcess::start();
    let agents: Vec<_> = ["north", "south"].map(|name| core.device(name)).into();
    for agent in &agents {
        publish(agent, &format!("cam/{}", agent.name()));
        agent.sync();
    }
    core.run_command(&["device", "label", "north", "site=x"]).success();
    let create = ["collection", "create", "site-x", "--match", "cam/*", "--label", "site=x", "--every", "10s"];
    let made = core.ask(&[&create[..], &["--keep", "2"]].concat());
    assert_eq!((&made["members"], &made["keep"]), (&json!(1), &json!(2)), "{made}");
    let wait_number = |number: u64| {
        wait_for("the next number", || {
            let row = &core.list(&["collection", "show", "site-x"])[0];
            (row["number"].as_u64() >= Some(number)).then(|| row.clone())
        })
    };
    core.run_command(&["device", "label", "south", "site=x"]).success();
    assert_eq!(wait_number(2)["members"], 2);
    core.run_command(&["device", "label", "north", "site=y"]).success();
    assert_eq!(wait_number(3)["members"], 1);
    core.run_command(&["collection", "show", "site-x@1"]).failed("HW-2002", &["site-x"]);
    assert_eq!(core.list(&["collection", "show", "site-x@2"]).len(), 3);

    // What a kept number names is not deleted by mistake.
    core.run_command(&["dataset", "delete", "cam/north", "--last-copy"]).failed("HW-2011", &["site-x@2", "cam/north"]);
    core.run_command(&["dataset", "delete", "cam/north", "--last-copy", "--from-collections"]).success();
    core.run_command(&["collection", "delete", "site-x"]).success();
    core.run_command(&["collection", "show", "site-x"]).failed("HW-2002", &["site-x"]);
    core.run_command(&["dataset", "delete", "cam/south", "--last-copy"]).success();
}

#[test]
fn a_dataset_is_handed_only_to_one_who_can_write_it() {
    let core = CoreProcess::start();
    let north = core.device("north");
    publish(&north, "cam/north");
    north.sync();
    let _gone = core.device("gone");
    core.run_command(&["device", "revoke", "gone"]).success();
    core.run_command(&["dataset", "hand-over", "cam/north", "gone"]).failed("HW-1010", &["gone"]);
    let _reader = Operator::login(&core, "ann", &["--role", "reader"]);
    core.run_command(&["dataset", "hand-over", "cam/north", "ann"]).failed("HW-2006", &["ann", "reader"]);
    core.run_command(&["dataset", "hand-over", "cam/north", "nobody"]).failed("HW-2002", &["nobody"]);
    assert_eq!(core.list(&["dataset", "list"])[0]["writer"], "north");
}

#[test]
fn the_list_of_devices_says_what_each_waits_for() {
    let core = CoreProcess::start();
    let north = core.device("north");
    publish(&north, "cam/north");
    north.sync();
    north.sync();
    let south = core.device_with("south", Rights { write: "elsewhere/*", read: "**" });
    publish(&south, "cam/north");
    south.sync_once().problem("HW-2006", &["cam/north"]);
    // The next session says what the last one left.
    south.sync_once();
    let row = core.ask(&["device", "show", "south"]);
    assert!(row["backlog_bytes"].as_u64() > Some(0), "{row}");
    assert!(row["disk_free_bytes"].as_u64() > Some(0), "{row}");
    assert!(row["oldest_unsent_s"].is_u64() && row["seen_ago_s"].is_u64(), "{row}");
    let done = core.ask(&["device", "show", "north"]);
    assert_eq!((&done["backlog_bytes"], &done["last_error"]), (&json!(0), &json!("")), "{done}");
    let table = core.run_command(&["device", "list"]).success().stdout;
    for heading in ["device", "release", "backlog", "oldest unsent", "free disk", "labels", "last error"] {
        assert!(table.contains(heading), "{table}");
    }
}

#[test]
fn errors_and_checks_are_json_where_that_was_asked() {
    let core = CoreProcess::start();
    let said = core.run_command(&["dataset", "show", "nonesuch", "--json"]).failed("HW-2002", &["nonesuch"]);
    let error = &said.document()["error"];
    assert_eq!(error["code"], "HW-2002");
    assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{error}");
    assert_eq!(core.ask(&["config", "check"])["name"], "core");
    let identity = core.scratch().join("nobody");
    let identity = text(&identity);
    let said = core.run_command(&["status", "--identity", identity]).failed("HW-5005", &["--core"]);
    assert!(said.stdout.is_empty(), "the daemon on this machine must not answer in its place: {said:#?}");
    let address = core.address().to_string();
    core.run_command(&["run", "--core", &address, "--identity", identity]).failed("HW-5005", &["--core"]);
}
