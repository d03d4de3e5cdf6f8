//! Who may import whom, checked on the dependency graph that `cargo metadata` resolves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde::Deserialize;

use crate::process::{cargo, output};

/// For each package of the workspace, the packages of the workspace that it may depend on, tests included.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("headwater-protocol", &[]),
    ("headwater-quic", &["headwater-protocol"]),
    ("headwater-fabric", &["headwater-protocol"]),
    ("headwater-host", &["headwater-protocol"]),
    ("edge-agent", LIBRARIES),
    ("headwater-aggregate", &["headwater-protocol"]),
    (
        "core-node",
        &["headwater-protocol", "headwater-quic", "headwater-fabric", "headwater-host", "headwater-aggregate"],
    ),
    ("headwater-client", LIBRARIES),
    ("headwater-python", &["headwater-client", "simulations"]),
    (
        "simulations",
        &[
            "headwater-protocol",
            "headwater-quic",
            "headwater-fabric",
            "headwater-host",
            "headwater-aggregate",
            "edge-agent",
            "core-node",
            "headwater-client",
        ],
    ),
    ("peers", &[]),
    ("xtask", &[]),
];

const LIBRARIES: &[&str] = &["headwater-protocol", "headwater-quic", "headwater-fabric", "headwater-host"];

/// What must not stand anywhere in the dependency tree of the pure package: runtimes, sockets, clocks, files, databases,
/// and generators that seed themselves. `time` is under the parser of certificates, for calendar arithmetic; what could
/// read the clock through it is banned by name in `protocol/clippy.toml`.
const NOT_UNDER_PROTOCOL: &[&str] = &[
    "async-io",
    "async-std",
    "fastrand",
    "libsqlite3-sys",
    "memmap2",
    "mio",
    "notify",
    "quinn",
    "quinn-proto",
    "quinn-udp",
    "rand",
    "reqwest",
    "rusqlite",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "walkdir",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
    target: Option<String>,
}

/// All breaches of the rules.
pub(super) fn check() -> anyhow::Result<Vec<String>> {
    let text = output(cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Metadata =
        serde_json::from_str(&text).context("the output of `cargo metadata` is not as expected")?;
    let names: BTreeMap<&str, &str> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let members: BTreeSet<&str> = metadata.workspace_members.iter().map(|id| names[id.as_str()]).collect();

    let mut findings = Vec::new();
    for id in &metadata.workspace_members {
        let name = names[id.as_str()];
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(member, _)| *member == name) else {
            findings
                .push(format!("the package `{name}` has no rule in xtask/src/tidy/rooms.rs: say whom it may import"));
            continue;
        };
        let imports = nodes[id.as_str()].deps.iter().map(|dependency| names[dependency.pkg.as_str()]);
        for import in imports.filter(|import| members.contains(import) && !allowed.contains(import)) {
            findings.push(format!("`{name}` imports `{import}`, which it may not"));
        }
    }
    findings.extend(impure(&metadata, &names, &nodes));
    Ok(findings)
}

/// What stands under the pure package and must not, each with the path that leads to it.
fn impure(metadata: &Metadata, names: &BTreeMap<&str, &str>, nodes: &BTreeMap<&str, &Node>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    let start = metadata.workspace_members.iter().find(|id| names[id.as_str()] == "headwater-protocol");
    let mut queue: Vec<(&str, String)> =
        start.map(|id| (id.as_str(), "headwater-protocol".to_owned())).into_iter().collect();
    while let Some((id, path)) = queue.pop() {
        for dependency in nodes[id].deps.iter().filter(|dependency| runs_with_us(dependency)) {
            let name = names[dependency.pkg.as_str()];
            let path = format!("{path} > {name}");
            if NOT_UNDER_PROTOCOL.contains(&name) {
                findings.push(format!("the pure package has `{name}` in its dependency tree: {path}"));
            }
            if seen.insert(dependency.pkg.as_str()) {
                queue.push((&dependency.pkg, path));
            }
        }
    }
    findings
}

/// Whether a dependency is linked into the program: not one of tests, of build scripts, or of another system.
fn runs_with_us(dependency: &Dependency) -> bool {
    dependency.dep_kinds.iter().any(|kind| {
        kind.kind.is_none()
            && kind.target.as_deref().is_none_or(|target| !target.contains("wasm") && !target.contains("windows"))
    })
}
