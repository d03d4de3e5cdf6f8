//! What a catalog must do for runs: a name stands for one, and a log only grows.

use headwater_protocol::federated::ModelVersion;

use super::*;

pub(super) fn logs_of_runs_only_grow(catalog: &dyn Catalog) {
    let run = |name: &str| RunRecord {
        name: name.into(),
        plan: r#"{"rounds":2}"#.into(),
        model: ModelVersion { number: 7, id: VersionId([7; 32]) },
        began_at: NOW,
        is_over: false,
    };
    let entry = |number: u64| RunEntry { at: NOW, elapsed_ms: number * 10, body: format!("entry {number}") };
    catalog.begin_run(&run("b")).unwrap();
    catalog.begin_run(&run("a")).unwrap();
    let again = RunRecord { plan: "{}".into(), ..run("a") };
    assert!(matches!(catalog.begin_run(&again), Err(BeginRunError::Exists(name)) if name == "a"));
    assert_eq!(catalog.runs().unwrap(), [run("a"), run("b")]);

    catalog.append_run("a", 0, &[entry(0), entry(1)], false).unwrap();
    let moved = catalog.append_run("a", 1, &[entry(9)], true);
    assert!(matches!(moved, Err(AppendRunError::Moved { found: 2, expected: 1, .. })));
    assert!(matches!(catalog.append_run("none", 0, &[entry(0)], false), Err(AppendRunError::Moved { .. })));
    catalog.append_run("a", 2, &[entry(2)], true).unwrap();
    assert_eq!(catalog.run_entries("a", 0, u64::MAX).unwrap(), [entry(0), entry(1), entry(2)]);
    assert_eq!(catalog.run_entries("a", 1, 1).unwrap(), [entry(1)]);
    assert_eq!(catalog.run_entries("b", 0, 9).unwrap(), []);
    assert_eq!(catalog.runs().unwrap(), [RunRecord { is_over: true, ..run("a") }, run("b")]);
}
