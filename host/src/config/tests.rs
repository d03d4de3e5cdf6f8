//! Sources override each other in order; every mistake is named with its place.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sample {
    listen: String,
    rescan: HumanDuration,
    keep: u32,
    link: Link,
    publish: Vec<Publish>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Link {
    rate: Option<HumanBytes>,
    window: HumanBytes,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    folder: PathBuf,
    dataset: String,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:4733".into(),
            rescan: HumanDuration(std::time::Duration::from_mins(1)),
            keep: 3,
            link: Link::default(),
            publish: Vec::new(),
            labels: BTreeMap::new(),
        }
    }
}

impl Validate for Sample {
    fn problems(&self) -> Vec<Problem> {
        if self.keep == 0 { vec![Problem::of_key("keep", "it must be at least 1")] } else { Vec::new() }
    }
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Sample, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ConfigSources::new().file(path, true).environment("HW_", &["DATA"], variables).load()
}

fn complaints(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    match load(text, environment) {
        Err(ConfigError::Mistakes(problems)) => problems
            .iter()
            .map(|problem| {
                problem.to_string().split_once("agent.toml, ").map_or(problem.to_string(), |(_, rest)| rest.to_owned())
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn later_sources_win() {
    let text = "listen = '1.1.1.1:1'\nrescan = '5m'\nlabels = { site = 'x' }\n[link]\nwindow = '4MiB'\n";
    let sample =
        load(text, &[("HW_LINK__RATE", "250kB"), ("HW_KEEP", "7"), ("HW_DATA", "/x"), ("OTHER", "1")]).unwrap();
    assert_eq!(sample.listen, "1.1.1.1:1");
    assert_eq!(sample.rescan.0.as_secs(), 300);
    assert_eq!((sample.link.rate, sample.link.window), (Some(HumanBytes(250_000)), HumanBytes(4 << 20)));
    assert_eq!(sample.keep, 7);
    let flagged: Sample = ConfigSources::new().flag("link.window", "1MiB").flag("keep", 9).load().unwrap();
    assert_eq!((flagged.link.window, flagged.keep), (HumanBytes(1 << 20), 9));
}

#[test]
fn all_mistakes_are_named_at_once() {
    let text =
        "lisen = 'x'\nrescan = 'soon'\n\n[link]\nrat = 1\nwindow = -5\n\n[[publish]]\nfolder = 'a'\ndatset = 'b'\n";
    assert_eq!(
        complaints(text, &[("HW_KEPE", "1")]),
        [
            "line 1: `lisen`: there is no such key; the nearest known one is `listen`",
            "line 2: `rescan`: `soon` is no span of time; write it as `30s`, `5m` or `1h30m`",
            "line 5: `link.rat`: there is no such key; the nearest known one is `rate`",
            "line 6: `link.window`: it can't be negative",
            "line 10: `publish.0.datset`: there is no such key; the nearest known one is `dataset`",
            "environment, HW_KEPE: `kepe`: there is no such key; the nearest known one is `keep`",
        ]
    );
}

#[test]
fn values_are_seen_together() {
    assert_eq!(complaints("keep = 0", &[]), ["`keep`: it must be at least 1"]);
    assert_eq!(complaints("keep = \n", &[]).len(), 1);
    assert!(complaints("", &[("HW_KEEP", "many")])[0].starts_with("environment, HW_KEEP: `keep`: invalid type"));
}

#[test]
fn a_missing_file_matters_only_where_it_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.toml");
    assert!(ConfigSources::new().file(&path, false).load::<Sample>().is_ok());
    let error = CodedError::from(ConfigSources::new().file(&path, true).load::<Sample>().unwrap_err());
    assert!(error.is(&codes::CONFIG_INVALID));
}
