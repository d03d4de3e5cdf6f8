//! Finds every mistake of a TOML text, not only the first: each key that the deserialiser stumbles over is noted, taken
//! out, and the rest is tried again.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::{PROBLEMS_MAX, Problem};

/// What stops `text` from being a `T`; `place` of each is its line.
pub(super) fn problems<T: DeserializeOwned>(text: &str) -> Vec<Problem> {
    let mut table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let message = error.message().to_owned();
            let place = format!("line {}", line_of(text, error.span().as_ref()));
            return vec![Problem { place, key: String::new(), message }];
        }
    };
    let mut found = Vec::new();
    while found.len() < PROBLEMS_MAX {
        let Err(error) = T::deserialize(Deserializer::from(table.clone())) else { break };
        let span = error.span();
        let removed = span.as_ref().and_then(|span| remove(table.get_mut(), span));
        if !follows_from(error.message(), &found) {
            let key = removed.clone().unwrap_or_default();
            let line = line_of(text, span.as_ref());
            found.push((line, Problem { place: format!("line {line}"), key, message: plain(error.message()) }));
        }
        if removed.is_none() {
            break;
        }
    }
    found.sort_by_key(|(line, _)| *line);
    found.into_iter().map(|(_, problem)| problem).collect()
}

/// Whether a field is only missing because it was misspelt or taken out before.
fn follows_from(message: &str, found: &[(usize, Problem)]) -> bool {
    let Some(name) = message.strip_prefix("missing field ") else { return false };
    found.iter().any(|(_, problem)| {
        let key = problem.key.rsplit('.').next().unwrap_or_default();
        name == format!("`{key}`") || problem.message.ends_with(&format!("one is {name}"))
    })
}

/// serde's message about an unknown key as a sentence that names the nearest known one; other messages as they are.
fn plain(message: &str) -> String {
    let message = message.trim();
    let Some((unknown, expected)) =
        message.strip_prefix("unknown field `").and_then(|rest| rest.split_once("`, expected "))
    else {
        return message.replace('\n', " ");
    };
    let known = expected.split('`').skip(1).step_by(2);
    match nearest(unknown, known) {
        Some(near) => format!("there is no such key; the nearest known one is `{near}`"),
        None => "there is no such key here".to_owned(),
    }
}

/// The one of `known` that looks most like `word`.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn line_of(text: &str, span: Option<&Range<usize>>) -> usize {
    let at = span.map_or(0, |span| span.start.min(text.len()));
    text[..text.floor_char_boundary(at)].matches('\n').count() + 1
}

/// Takes the entry at `span` out of `table` and gives its dotted key: the one whose key or value has just this span, else
/// the innermost whose value contains it.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let exact = |candidate: &Range<usize>| candidate == span;
    let around = |candidate: &Range<usize>| candidate.start <= span.start && span.end <= candidate.end;
    remove_where(table, &exact).or_else(|| remove_where(table, &around))
}

fn remove_where(table: &mut DeTable<'_>, fits: &dyn Fn(&Range<usize>) -> bool) -> Option<String> {
    let names: Vec<String> = table.iter().map(|(name, _)| name.get_ref().to_string()).collect();
    for name in names {
        let value = table.get_mut(name.as_str())?;
        if let Some(below) = remove_below(value, fits) {
            return Some(if below.is_empty() { name } else { format!("{name}.{below}") });
        }
        let fitting =
            table.get_key_value(name.as_str()).is_some_and(|(key, value)| fits(&key.span()) || fits(&value.span()));
        if fitting {
            table.remove(name.as_str());
            return Some(name);
        }
    }
    None
}

fn remove_below(value: &mut Spanned<DeValue<'_>>, fits: &dyn Fn(&Range<usize>) -> bool) -> Option<String> {
    match value.get_mut() {
        DeValue::Table(table) => remove_where(table, fits),
        DeValue::Array(array) => {
            for index in 0..array.len() {
                let element = array.get_mut(index)?;
                if let DeValue::Table(table) = element.get_mut()
                    && let Some(below) = remove_where(table, fits)
                {
                    return Some(format!("{index}.{below}"));
                }
            }
            None
        }
        _ => None,
    }
}
