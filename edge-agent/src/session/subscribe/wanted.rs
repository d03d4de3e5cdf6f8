//! Which dataset goes to which folder: what the core says that followed names stand for, against this device's own
//! subscriptions.
//!
//! A single dataset has the subscription's folder to itself, as `DIR/current`. Where a name can stand for several, as a
//! pattern or a collection does, each has a folder of its own below it, with the dataset's name: `DIR/cam/north/current`.

use std::path::PathBuf;

use headwater_host::error::{CodedError, codes};
use headwater_host::materialise::{CURRENT_LINK, VERSIONS_FOLDER};
use headwater_protocol::name::{DatasetName, NameContext, NamePattern};
use headwater_protocol::wire::{Following, News};

use crate::agent::{Agent, Subscription};

/// A dataset that a subscription wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it goes; an error where the core named what can't be a folder here.
    pub folder: Result<PathBuf, NotAFolder>,
    /// Versions that stay.
    pub keep: u32,
    /// The dataset and the version to have.
    pub newest: Following,
}

/// The core gave a dataset a name that can't be a folder below a subscription's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the dataset `{name}` can't have a folder below that of its subscription: {why}")]
pub struct NotAFolder {
    name: String,
    why: String,
}

impl From<NotAFolder> for CodedError {
    fn from(error: NotAFolder) -> Self {
        Self::new(&codes::NAME_INVALID, error.to_string()).with_hint("subscribe to it by its own name, or rename it")
    }
}

/// What the subscriptions want of the datasets in `news`. What stands behind no name of ours is not wanted.
pub fn wanted(agent: &Agent, subscriptions: &[Subscription], news: &[News]) -> Vec<Wanted> {
    let device = agent.device();
    let context = device.as_ref().map_or(NameContext { device: "", labels: &[] }, |device| device.name_context());
    let of = |news: &News| {
        let subscription = subscriptions.iter().find(|subscription| subscription.name == news.name)?;
        wanted_by(subscription, &news.newest, &context)
    };
    news.iter().filter_map(of).collect()
}

fn wanted_by(subscription: &Subscription, newest: &Following, context: &NameContext<'_>) -> Option<Wanted> {
    let folder = folder_of(subscription, &newest.dataset, context)?;
    Some(Wanted { folder, keep: subscription.keep, newest: newest.clone() })
}

/// The folder that a subscription gives to a dataset; none if it can't stand for it.
pub fn folder_of(
    subscription: &Subscription,
    dataset: &str,
    context: &NameContext<'_>,
) -> Option<Result<PathBuf, NotAFolder>> {
    let pattern = NamePattern::new(subscription.name.as_str()).ok()?;
    let name = DatasetName::new(dataset);
    let matches = name.as_ref().is_ok_and(|name| pattern.matches_for(name, context));
    match name {
        Ok(_) if matches && !subscription.name.contains('*') => Some(Ok(subscription.to.clone())),
        // A plain name that is not the dataset's is that of a collection.
        Ok(name) if matches || pattern.is_plain() => Some(folder_below(subscription, &name)),
        Ok(_) => None,
        Err(error) => Some(Err(NotAFolder { name: dataset.to_owned(), why: error.to_string() })),
    }
}

fn folder_below(subscription: &Subscription, dataset: &DatasetName) -> Result<PathBuf, NotAFolder> {
    // Names are checked: no part of one can be empty or begin with a dot, so none leads out of the folder.
    match dataset.as_str().split('/').find(|part| [CURRENT_LINK, VERSIONS_FOLDER].contains(part)) {
        None => Ok(subscription.to.join(dataset.as_str())),
        Some(part) => {
            let why = format!("`{part}` is what the versions of a dataset above it are found under");
            Err(NotAFolder { name: dataset.as_str().to_owned(), why })
        }
    }
}

#[cfg(test)]
mod tests {
    use headwater_protocol::id::VersionId;

    use super::*;

    #[track_caller]
    fn check(name: &str, dataset: &str, folder: Option<Result<&str, ()>>) {
        let subscription = Subscription { name: name.to_owned(), to: "/in".into(), keep: 3 };
        let newest = Following { dataset: dataset.to_owned(), number: 1, version: VersionId([1; 32]) };
        let labels = [("site".to_owned(), "x".to_owned())];
        let found = wanted_by(&subscription, &newest, &NameContext { device: "cam1", labels: &labels });
        assert_eq!(
            found.map(|wanted| wanted.folder.map_err(|_| ())),
            folder.map(|folder| folder.map(PathBuf::from)),
            "{name}"
        );
    }

    #[test]
    fn one_dataset_has_the_folder_and_several_have_one_each() {
        check("models/m", "models/m", Some(Ok("/in")));
        check("models/{device}", "models/cam1", Some(Ok("/in")));
        check("models/*", "models/m", Some(Ok("/in/models/m")));
        check("**", "m", Some(Ok("/in/m")));
        check("all", "cam/a", Some(Ok("/in/cam/a")));
        check("{label.site}/*", "x/a", Some(Ok("/in/x/a")));
    }

    #[test]
    fn what_a_name_cannot_stand_for_is_not_wanted() {
        check("models/*", "cam/a", None);
        check("models/{device}", "models/cam2", None);
        check("{label.site}/*", "y/a", None);
    }

    #[test]
    fn names_that_are_no_folders_are_refused() {
        for dataset in ["../x", "/x", "", ".x", "a/../b", "current", "cam/current", "versions/x", "a/versions"] {
            check("all", dataset, Some(Err(())));
        }
        check("cam/current", "cam/current", Some(Ok("/in")));
    }
}
