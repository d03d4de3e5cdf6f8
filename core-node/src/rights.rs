//! Who may do what at this core: the configuration's rules and a device's record, made into what
//! [`headwater_protocol::trust`] decides upon.
//!
//! A device may write and read what its token said, what the rules for its labels say, and what it wrote itself; where
//! neither token nor rule says anything of a kind, the configuration's defaults hold. What it may not read looks to it as
//! if it didn't exist, so callers answer "not found", never "not allowed", about someone else's dataset.

use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::id::PublicKey;
use headwater_protocol::name::{DatasetName, NamePattern, PatternError};
use headwater_protocol::trust::{
    Access, AccessRule, AccessRules, Action, DatasetFacts, LabelSelector, NameGrants, Principal as Peer, Role,
    SelectorError,
};

use crate::catalog::{DatasetRecord, DeviceRecord, Principal};
use crate::config::Config;
use crate::control::Request;
use crate::federation::Participants;

/// What the configuration says of rights, checked and ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    rules: AccessRules,
    default_write: Vec<NamePattern>,
    default_read: Vec<NamePattern>,
    participants: Arc<Participants>,
}

/// A configuration whose rules can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A pattern is none.
    #[error("{place}: {source}")]
    Pattern {
        /// Where in the file.
        place: String,
        /// What is wrong.
        source: PatternError,
    },
    /// Labels are none.
    #[error("{place}: {source}")]
    Labels {
        /// Where in the file.
        place: String,
        /// What is wrong.
        source: SelectorError,
    },
}

impl Rights {
    /// Reads the rules of `config`.
    pub fn new(config: &Config) -> Result<Self, RulesError> {
        let mut rules = Vec::new();
        for (index, rule) in config.rules.iter().enumerate() {
            let place = |what: &str| format!("rules[{index}].{what}");
            let selector: Vec<_> = rule.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let who = LabelSelector::parse(&selector.join(","))
                .map_err(|source| RulesError::Labels { place: place("labels"), source })?;
            for (access, texts, what) in [(Access::Write, &rule.write, "write"), (Access::Read, &rule.read, "read")] {
                let names = patterns(texts, &place(what))?;
                rules.extend(names.into_iter().map(|names| AccessRule { names, who: who.clone(), access }));
            }
        }
        Ok(Self {
            rules: AccessRules { rules },
            default_write: patterns(&config.defaults.write, "defaults.write")?,
            default_read: patterns(&config.defaults.read, "defaults.read")?,
            participants: Arc::default(),
        })
    }

    /// Who takes part in federated runs, and may do what that needs.
    pub fn participants(&self) -> &Participants {
        &self.participants
    }

    /// A device as decisions see it.
    pub fn peer(&self, device: &DeviceRecord) -> Peer {
        // A pattern that an older release stored and this one can't read gives no right.
        let own = |texts: &[String]| -> Vec<_> {
            texts.iter().filter_map(|text| NamePattern::new(text.as_str()).ok()).collect()
        };
        let mut peer = Peer {
            key: device.key,
            name: device.name.clone(),
            role: device.role,
            labels: device.labels.clone(),
            grants: NameGrants { read: own(&device.read_patterns), write: own(&device.write_patterns) },
        };
        let ruled =
            |access: Access| self.rules.rules.iter().any(|rule| rule.access == access && rule.who.selects(&peer));
        let (write_ruled, read_ruled) = (ruled(Access::Write), ruled(Access::Read));
        if peer.grants.write.is_empty() && !write_ruled {
            peer.grants.write.clone_from(&self.default_write);
        }
        if peer.grants.read.is_empty() && !read_ruled {
            peer.grants.read = match peer.role {
                Role::Device => self.default_read.clone(),
                Role::Reader | Role::Writer | Role::Coordinator | Role::Admin => vec![NamePattern::any()],
            };
        }
        peer
    }

    /// Whether `peer` may read `dataset`. Where not, it must not learn that there is one.
    pub fn may_read(&self, peer: &Peer, dataset: &DatasetRecord) -> bool {
        DatasetName::new(dataset.name.as_str()).is_ok_and(|name| {
            self.rules.may_read(peer, &DatasetFacts { name: &name, writer: writer_key(dataset.writer) })
                || (peer.role == Role::Device && self.participants.may_read(&peer.name, name.as_str()))
        })
    }

    /// Whether `peer` may publish under `name`, if nobody else does.
    pub fn may_write(&self, peer: &Peer, name: &DatasetName, writer: Option<Principal>) -> bool {
        if let Some(may) = self.participants.may_write(&peer.name, name.as_str()) {
            return may && peer.role == Role::Device;
        }
        self.rules.may_write(peer, &DatasetFacts { name, writer: writer.and_then(writer_key) })
    }
}

fn writer_key(writer: Principal) -> Option<PublicKey> {
    match writer {
        Principal::Core => None,
        Principal::Device(key) => Some(key),
    }
}

fn patterns(texts: &[String], place: &str) -> Result<Vec<NamePattern>, RulesError> {
    texts
        .iter()
        .map(|text| {
            NamePattern::new(text.as_str()).map_err(|source| RulesError::Pattern { place: place.to_owned(), source })
        })
        .collect()
}

/// What `request` asks for, as roles know it.
fn action(request: &Request) -> Action {
    match request {
        Request::DatasetList { .. }
        | Request::DatasetShow { .. }
        | Request::DatasetLog { .. }
        | Request::DatasetFiles { .. }
        | Request::DatasetSelect { .. }
        | Request::DatasetDiff { .. }
        | Request::CollectionList
        | Request::CollectionShow { .. }
        | Request::ModelList
        | Request::ModelShow { .. }
        | Request::ModelLog { .. } => Action::Read,
        Request::DatasetNext { .. } => Action::Publish,
        Request::FederationStart(_)
        | Request::FederationStatus { .. }
        | Request::FederationLog { .. }
        | Request::FederationPause { .. }
        | Request::FederationResume { .. }
        | Request::FederationAbort { .. }
        | Request::FederationExplain { .. }
        | Request::ModelVerify { .. } => Action::Federate,
        Request::DatasetTag { .. }
        | Request::DatasetUntag { .. }
        | Request::DatasetSamples { .. }
        | Request::CollectionCreate(_)
        | Request::CollectionDelete { .. } => Action::Curate,
        Request::Status | Request::DeviceList | Request::DeviceShow { .. } => Action::Observe,
        Request::Doctor
        | Request::TokenCreate(_)
        | Request::TokenList
        | Request::TokenRevoke { .. }
        | Request::DeviceLabel { .. }
        | Request::DeviceRevoke { .. }
        | Request::DatasetExport { .. }
        | Request::DatasetDelete { .. }
        | Request::DatasetHandOver { .. }
        | Request::DatasetRetention { .. }
        | Request::Import { .. }
        | Request::ModelPublish { .. }
        | Request::ModelExport { .. }
        | Request::ModelWithout { .. }
        | Request::Verify
        | Request::Gc { .. } => Action::Administer,
    }
}

/// Checks that `role` may make `request`; which datasets the answer may name is a question of [`Rights::may_read`].
pub fn check_request(role: Role, request: &Request) -> Result<(), CodedError> {
    let action = action(request);
    // A device speaks for a machine; it has messages of its own and no commands.
    if role != Role::Device && role.allows(action) {
        return Ok(());
    }
    let least = [Role::Reader, Role::Writer, Role::Coordinator].into_iter().find(|role| role.allows(action));
    let least = least.unwrap_or(Role::Admin);
    Err(CodedError::new(&codes::FORBIDDEN, format!("an identity with the role `{role}` may not ask for this"))
        .with_hint(format!("use an identity that was made with a token of `core-node token create --role {least}`")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use headwater_protocol::wire::PeerStatus;

    use super::*;
    use crate::catalog::{DatasetId, DeviceState, Retention, UnixMs};
    use crate::config::Rule;

    const KEY: PublicKey = PublicKey([1; 32]);

    fn device(role: Role, labels: &[(&str, &str)], write: &[&str], read: &[&str]) -> DeviceRecord {
        DeviceRecord {
            key: KEY,
            name: "cam-1".into(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            role,
            state: DeviceState::Active,
            write_patterns: write.iter().map(|&text| text.into()).collect(),
            read_patterns: read.iter().map(|&text| text.into()).collect(),
            nonces: Vec::new(),
            certificate_expires_at: UnixMs(0),
            joined_at: UnixMs(0),
            last_seen_at: None,
            status: PeerStatus::default(),
        }
    }

    fn dataset(name: &str, writer: Principal) -> DatasetRecord {
        DatasetRecord {
            id: DatasetId(1),
            name: name.into(),
            writer,
            retention: Retention::default(),
            created_at: UnixMs(0),
            head: None,
        }
    }

    #[test]
    fn token_rules_and_defaults_add_up() {
        let config = Config {
            rules: vec![Rule {
                labels: BTreeMap::from([("site".into(), "x".into())]),
                write: vec!["site/{label.site}/{device}".into()],
                read: vec!["models/**".into()],
            }],
            ..Config::default()
        };
        let rights = Rights::new(&config).expect("good patterns");
        let plain = rights.peer(&device(Role::Device, &[], &[], &[]));
        let name = |text: &str| DatasetName::new(text).expect("a name");
        assert!(rights.may_write(&plain, &name("anything/at/all"), None), "the default lets it publish");
        assert!(!rights.may_read(&plain, &dataset("models/a", Principal::Core)));
        assert!(rights.may_read(&plain, &dataset("models/a", Principal::Device(KEY))), "its own it may read");
        let ruled = rights.peer(&device(Role::Device, &[("site", "x")], &["cam/{device}/*"], &[]));
        for (text, write, read) in [
            ("cam/cam-1/left", true, false),
            ("cam/cam-2/left", false, false),
            ("site/x/cam-1", true, false),
            ("site/y/cam-1", false, false),
            ("models/a/b", false, true),
        ] {
            assert_eq!(rights.may_write(&ruled, &name(text), None), write, "write {text}");
            assert_eq!(rights.may_read(&ruled, &dataset(text, Principal::Core)), read, "read {text}");
        }
    }

    #[test]
    fn roles_bound_requests() {
        for (role, request, allowed) in [
            (Role::Admin, Request::Gc { last_copy: true, dry_run: false }, true),
            (Role::Coordinator, Request::Gc { last_copy: false, dry_run: false }, false),
            (Role::Coordinator, Request::Status, true),
            (Role::Reader, Request::DatasetList { pattern: None }, true),
            (Role::Reader, Request::TokenList, false),
            (Role::Device, Request::Status, false),
        ] {
            assert_eq!(check_request(role, &request).is_ok(), allowed, "{role} {request:?}");
        }
    }

    #[test]
    fn a_bad_pattern_is_placed() {
        let config = Config { rules: vec![Rule { read: vec!["a b".into()], ..Rule::default() }], ..Config::default() };
        let error = Rights::new(&config).expect_err("a bad pattern");
        assert!(error.to_string().starts_with("rules[0].read"), "{error}");
    }
}
