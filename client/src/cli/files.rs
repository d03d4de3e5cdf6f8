//! `ls`, `du`, `cat` and `cp`: a version as if it were a folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use headwater_host::config::HumanBytes;
use headwater_host::error::{CodedError, codes};
use headwater_host::output::{Rows, Stdout};
use serde_json::{Value, json};

use super::{output, say};
use crate::Client;
use crate::files::Listed;

/// A version, and a path in it.
struct Place {
    version: String,
    path: String,
}

impl Place {
    /// Reads `cameras/left@7/train/1.png`: the path begins with the first slash after the version.
    fn parse(text: &str) -> Result<Self, CodedError> {
        let Some((name, rest)) = text.split_once('@') else {
            return Err(CodedError::new(&codes::USAGE, format!("`{text}` does not say which version"))
                .with_hint("say NAME@VERSION/PATH, as `cameras@latest/train/0001.png`"));
        };
        let (version, path) = rest.split_once('/').unwrap_or((rest, ""));
        Ok(Self { version: format!("{name}@{version}"), path: path.trim_matches('/').to_owned() })
    }
}

pub(super) async fn list_datasets(client: &Client, json: bool) -> Result<(), CodedError> {
    let mut found = Vec::new();
    let take = |part: Value| found.extend(part.get("value").filter(|value| value.get("name").is_some()).cloned());
    client.command(&json!({ "command": "dataset-list", "pattern": null }), take).await?;
    if json {
        return lines(&found);
    }
    let mut rows = Rows::new(&["NAME", ">VERSION", ">FILES", ">BYTES"]);
    for row in &found {
        let number =
            |key: &str| row.get(key).and_then(Value::as_u64).map(|number| number.to_string()).unwrap_or_default();
        let name = row.get("name").and_then(Value::as_str).unwrap_or_default();
        rows.add([name, &number("number"), &number("files"), &number("bytes")]);
    }
    Stdout::default().write_all(rows.to_text().as_bytes()).map_err(output)
}

fn lines(documents: &[Value]) -> Result<(), CodedError> {
    let mut out = Stdout::default();
    documents.iter().try_for_each(|document| writeln!(out, "{document}")).map_err(output)
}

async fn listed(client: &Client, place: &Place) -> Result<Vec<Listed>, CodedError> {
    let mut files = Vec::new();
    client.list(&place.version, &place.path, |file| files.push(file)).await?;
    Ok(files)
}

pub(super) async fn list(client: &Client, what: &str, json: bool) -> Result<(), CodedError> {
    let files = listed(client, &Place::parse(what)?).await?;
    if json {
        return lines(&files.into_iter().map(|file| file.row).collect::<Vec<_>>());
    }
    let mut rows = Rows::new(&[">BYTES", "PATH"]);
    for file in &files {
        let mark = match file.kind.as_str() {
            "folder" => "/",
            "symlink" => "@",
            _ => "",
        };
        rows.add([file.size.to_string(), format!("{}{mark}", file.path)]);
    }
    Stdout::default().write_all(rows.to_text().as_bytes()).map_err(output)
}

pub(super) async fn sum_up(client: &Client, what: &str, json: bool) -> Result<(), CodedError> {
    let place = Place::parse(what)?;
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for file in listed(client, &place).await?.iter().filter(|file| file.kind == "file") {
        let below = file.path.strip_prefix(&place.path).unwrap_or(&file.path).trim_start_matches('/');
        let top = below.split_once('/').map_or("", |(top, _)| top);
        for key in std::iter::once(".").chain((!top.is_empty()).then_some(top)) {
            let sum = sums.entry(key.to_owned()).or_default();
            *sum = (sum.0 + 1, sum.1 + file.size);
        }
    }
    if json {
        let all: Vec<_> =
            sums.iter().map(|(path, (files, bytes))| json!({ "path": path, "files": files, "bytes": bytes })).collect();
        return lines(&all);
    }
    let mut rows = Rows::new(&[">BYTES", ">FILES", "PATH"]);
    for (path, (files, bytes)) in &sums {
        rows.add([bytes.to_string(), files.to_string(), path.clone()]);
    }
    Stdout::default().write_all(rows.to_text().as_bytes()).map_err(output)
}

pub(super) async fn cat(client: &Client, file: &str) -> Result<(), CodedError> {
    let place = Place::parse(file)?;
    let dataset = client.dataset(&place.version).await?;
    let mut out = Stdout::default();
    dataset.read_file(place.path.as_bytes(), |bytes| out.write_all(bytes)).await?;
    out.flush().map_err(output)
}

pub(super) async fn copy(client: &Client, from: &str, to: &Path, json: bool) -> Result<(), CodedError> {
    let place = Place::parse(from)?;
    // What is listed and what is read are the same version, whatever is published meanwhile.
    let dataset = client.dataset(&place.version).await?;
    let place = Place { version: dataset.label().to_owned(), ..place };
    let files = listed(client, &place).await?;
    let is_one = files.len() == 1 && files[0].path == place.path && files[0].kind == "file";
    if !is_one && to.exists() {
        return Err(CodedError::new(&codes::ALREADY_EXISTS, format!("`{}` exists already", to.display()))
            .with_hint("name a folder that does not exist yet"));
    }
    let (mut count, mut bytes) = (0u64, 0u64);
    for file in &files {
        let target = if is_one { target_of_file(to, &file.path) } else { to.join(below(&file.path, &place.path)?) };
        match file.kind.as_str() {
            "folder" => fs::create_dir_all(&target).map_err(|error| failed(&target, error))?,
            "file" => {
                bytes += write(&dataset, &file.path, &target).await?;
                count += 1;
            }
            _ => tracing::debug!(path = file.path, "a link is not copied"),
        }
    }
    let said = format!("{count} files, {} copied to `{}`", HumanBytes(bytes), to.display());
    say(json, &json!({ "files": count, "bytes": bytes, "to": to }), &said)
}

fn target_of_file(to: &Path, path: &str) -> PathBuf {
    let name = path.rsplit('/').next().unwrap_or(path);
    if to.is_dir() { to.join(name) } else { to.to_owned() }
}

/// `path` as it lies below `under`; nothing that leads out of a folder.
fn below(path: &str, under: &str) -> Result<PathBuf, CodedError> {
    let rest = path.strip_prefix(under).unwrap_or(path).trim_start_matches('/');
    let relative = PathBuf::from(rest);
    if relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(relative);
    }
    Err(CodedError::new(&codes::UNSAFE_MANIFEST, format!("the version names the path `{path}`")))
}

fn failed(path: &Path, error: std::io::Error) -> CodedError {
    CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", path.display()), error)
}

async fn write(dataset: &crate::Dataset, path: &str, target: &Path) -> Result<u64, CodedError> {
    if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
    }
    let mut file = File::create(target).map_err(|error| failed(target, error))?;
    dataset.read_file(path.as_bytes(), |bytes| file.write_all(bytes)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_version_and_path() {
        let place = |text: &str| Place::parse(text).map(|place| (place.version, place.path)).ok();
        let pair = |version: &str, path: &str| Some((version.to_owned(), path.to_owned()));
        assert_eq!(place("a/b@7/c/d.png"), pair("a/b@7", "c/d.png"));
        assert_eq!(place("a@latest"), pair("a@latest", ""));
        assert_eq!(place("a@latest/c@2x.png"), pair("a@latest", "c@2x.png"));
        assert_eq!(place("a/b"), None);
    }

    #[test]
    fn nothing_is_written_outside_of_the_target() {
        assert_eq!(below("a/b/c", "a").expect("fine"), Path::new("b/c"));
        assert!(below("a/../../c", "a").is_err());
    }
}
