//! Which files of a dataset hold samples inside, and in which form.

use std::fmt;
use std::num::NonZeroU64;

use super::fixed::Fixed;
use super::lines::Lines;
use super::npy::Npy;
use super::tar::Tar;
use super::{RECORD_BYTES_MAX, SplitError, Splitter};

/// A form of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Lines of `.jsonl`, `.ndjson` and `.txt`.
    Lines,
    /// Rows of `.npy`.
    Npy,
    /// So many bytes each, of `.bin`.
    Records(NonZeroU64),
    /// Members of `.tar`.
    Tar,
}

impl Form {
    const fn suffixes(self) -> &'static [&'static [u8]] {
        match self {
            Self::Lines => &[b".jsonl", b".ndjson", b".txt"],
            Self::Npy => &[b".npy"],
            Self::Records(_) => &[b".bin"],
            Self::Tar => &[b".tar"],
        }
    }
}

/// What the samples of a dataset are.
///
/// As text: `stems` for files, those of one stem together; or a list of `tar`, `lines`, `npy` and `records:BYTES`, and then the
/// samples are the records of the files that these forms are for, and other files hold none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Ordered; none for files.
    forms: Vec<Form>,
}

/// A text that says no such thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` does not say what samples are: `stems` was expected, or a list of `tar`, `lines`, `npy` and `records:BYTES`"
)]
pub struct RuleError(String);

impl Rule {
    /// Reads `stems` or `tar,records:784`.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let error = || RuleError(text.chars().take(80).collect());
        if text == "stems" {
            return Ok(Self::default());
        }
        let form = |name: &str| match name {
            "lines" => Some(Form::Lines),
            "npy" => Some(Form::Npy),
            "tar" => Some(Form::Tar),
            other => {
                let bytes = other.strip_prefix("records:")?.parse::<NonZeroU64>().ok()?;
                (bytes.get() <= RECORD_BYTES_MAX).then_some(Form::Records(bytes))
            }
        };
        let mut forms: Vec<_> = text.split(',').map(form).collect::<Option<_>>().ok_or_else(error)?;
        forms.sort_unstable();
        // Two forms for the same files say nothing.
        let twice = forms.windows(2).any(|pair| pair[0].suffixes() == pair[1].suffixes());
        if twice { Err(error()) } else { Ok(Self { forms }) }
    }

    /// Whether samples are files.
    pub fn is_files(&self) -> bool {
        self.forms.is_empty()
    }

    /// What finds the records of the file at `path`, which has `size` bytes; none if it holds none.
    pub fn splitter(&self, path: &[u8], size: u64) -> Result<Option<Box<dyn Splitter>>, SplitError> {
        let lower = path.to_ascii_lowercase();
        let suffix_of = |form: &Form| form.suffixes().iter().find(|suffix| lower.ends_with(suffix));
        let Some((form, suffix)) = self.forms.iter().find_map(|form| Some((*form, *suffix_of(form)?))) else {
            return Ok(None);
        };
        Ok(Some(match form {
            Form::Lines => Box::new(Lines::new(if suffix == b".txt" { b".txt" } else { b".json" })),
            Form::Npy => Box::new(Npy::new(size)),
            Form::Records(bytes) => Box::new(Fixed::new(0, bytes, size, b".bin")?),
            Form::Tar => Box::new(Tar::default()),
        }))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.forms.is_empty() {
            return f.write_str("stems");
        }
        for (index, form) in self.forms.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            match form {
                Form::Lines => f.write_str("lines")?,
                Form::Npy => f.write_str("npy")?,
                Form::Records(bytes) => write!(f, "records:{bytes}")?,
                Form::Tar => f.write_str("tar")?,
            }
        }
        Ok(())
    }
}
