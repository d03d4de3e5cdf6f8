//! `model aggregate`: update files become a model, without a core.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use headwater_aggregate::read_layout;
use headwater_host::error::{CodedError, codes};
use headwater_host::output::Stdout;

use super::AggregateArgs;
use crate::cli::plan::usage;
use crate::federation::{Combiner, Input, PlainFile, combine_files};

/// Combines the files that `args` name.
pub(in crate::cli) fn aggregate(args: &AggregateArgs, json: bool) -> Result<ExitCode, CodedError> {
    let combiner: Combiner = args.strategy.parse().map_err(|error| usage(&format!("--strategy: {error}")))?;
    let updates: Vec<_> = args.updates.iter().map(|text| input(text)).collect::<Result<_, _>>()?;
    for path in updates.iter().map(|(path, _)| path).chain([&args.base]) {
        check(path)?;
    }
    let inputs: Vec<_> =
        updates.iter().map(|(path, samples)| Input { path, samples: *samples, staleness: 0 }).collect();
    let state_out = args.state_out.clone().unwrap_or_else(|| {
        let mut name = args.out.clone().into_os_string();
        name.push(".state");
        name.into()
    });
    let has_state = combine_files(&combiner, &args.base, args.state.as_deref(), &inputs, &args.out, &state_out)
        .map_err(|error| {
            CodedError::new(&codes::MODEL_UNREADABLE, format!("the updates can't be combined: {error:#}"))
        })?;
    let out = args.out.display();
    let said = if json {
        let state = has_state.then_some(state_out);
        serde_json::json!({ "out": args.out, "state": state, "updates": updates.len() }).to_string()
    } else {
        let state = if has_state {
            format!(", and what the strategy keeps in `{}`", state_out.display())
        } else {
            String::new()
        };
        format!("{} updates are combined in `{out}`{state}", updates.len())
    };
    writeln!(Stdout::default(), "{said}").map_err(crate::cli::output)?;
    Ok(ExitCode::SUCCESS)
}

/// A file and the samples that it counts as. A name may have `=` in it.
fn input(text: &str) -> Result<(PathBuf, u64), CodedError> {
    let with_samples = text.rsplit_once('=').and_then(|(path, samples)| Some((path, samples.parse().ok()?)));
    match with_samples {
        Some((_, 0)) => Err(usage(&format!("--update {text}: an update counts as one sample at least"))),
        Some((path, samples)) => Ok((path.into(), samples)),
        None => Ok((text.into(), 1)),
    }
}

/// Whether a file can be read at all: what is in it is checked as it is read.
fn check(path: &Path) -> Result<(), CodedError> {
    let file = PlainFile::open(path)
        .map_err(|error| CodedError::io(&codes::READ_FAILED, format!("`{}` can't be read", path.display()), error))?;
    read_layout(&file).map(drop).map_err(|error| {
        CodedError::new(&codes::MODEL_UNREADABLE, format!("`{}` can't be used", path.display())).with_source(error)
    })
}
