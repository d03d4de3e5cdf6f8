//! What a training job says on its control stream: it opens what it will read, and the way on which the bytes come.

use rkyv::{Archive, Deserialize, Serialize};

use super::message::{MESSAGE_LIST_MAX, check_list, check_text};
use super::{Following, Refusal};
use crate::id::ID_BYTES;
use crate::order::Reading;

/// Bytes of the secret that binds a data connection to its session.
pub const DATA_SECRET_BYTES: usize = 32;

/// Longest id of a job, in bytes.
pub const JOB_BYTES_MAX: usize = 256;

/// Where a job's bytes come from, and what that connection takes.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct DataWay {
    /// TCP port of the core, at the address where the session is.
    pub port: u16,
    /// The session's number at the core.
    pub session: u64,
    /// A secret for one connection, soon.
    pub secret: [u8; DATA_SECRET_BYTES],
    /// Whether what travels is sealed with keys that follow from the secret.
    pub sealed: bool,
    /// Requests that may be under way at once.
    pub requests_max: u32,
    /// Largest slot that the core fills.
    pub slot_bytes_max: u32,
}

impl std::fmt::Debug for DataWay {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataWay")
            .field("port", &self.port)
            .field("session", &self.session)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}

/// A dataset version in what was opened.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SourceMember {
    /// The dataset, the version's number and its id.
    pub version: Following,
    /// Samples of the version.
    pub samples: u64,
    /// Files of the version.
    pub files: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A message of a training job, or the answer to one.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ReaderMessage {
    /// Job to core: let me make a data connection. The first message of a session.
    OpenData {
        /// The asker's number, which the answer carries.
        question: u32,
        /// The id of the job that this session is of: ranks and workers of one job say the same.
        job: String,
    },
    /// The answer.
    DataOpened {
        /// The question.
        question: u32,
        /// Where, and with which secret.
        way: DataWay,
    },
    /// Job to core: I will read this.
    OpenSource {
        /// The asker's number, which the answer carries.
        question: u32,
        /// `dataset`, `dataset@latest`, `dataset@7`, `dataset@tag`, or the same of a collection.
        name: String,
    },
    /// The answer: what that is now, and stays for as long as it is open.
    SourceIs {
        /// The question.
        question: u32,
        /// Its number in requests.
        source: u32,
        /// The id of the version, or of the collection's edition.
        id: [u8; ID_BYTES],
        /// Number of the version or edition.
        number: u64,
        /// The versions in it, whose samples come one after the other.
        members: Vec<SourceMember>,
    },
    /// Job to core: from now on I read this of it, in this order. It takes the place of what was declared before.
    Declare {
        /// The asker's number, which the answer carries.
        question: u32,
        /// Its number in requests.
        source: u32,
        /// What will be read.
        reading: Reading,
    },
    /// The answer.
    Declared {
        /// The question.
        question: u32,
    },
    /// Job to core: I read no more of it.
    CloseSource {
        /// Its number in requests.
        source: u32,
    },
    /// Core to job: no.
    Refused {
        /// The question.
        question: u32,
        /// Why.
        refusal: Refusal,
    },
}

impl ReaderMessage {
    /// The question that it asks or answers.
    pub const fn question(&self) -> Option<u32> {
        match self {
            Self::OpenData { question, .. }
            | Self::DataOpened { question, .. }
            | Self::OpenSource { question, .. }
            | Self::SourceIs { question, .. }
            | Self::Declare { question, .. }
            | Self::Declared { question }
            | Self::Refused { question, .. } => Some(*question),
            Self::CloseSource { .. } => None,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::OpenData { job, .. } if job.len() > JOB_BYTES_MAX => Err(format!("a job id of {} bytes", job.len())),
            Self::Declare { reading, .. } => reading.check(),
            Self::OpenSource { name, .. } => check_text("a name", name),
            Self::SourceIs { members, .. } => {
                check_list("members", members, MESSAGE_LIST_MAX)?;
                members.iter().try_for_each(|member| check_text("a name", &member.version.dataset))
            }
            Self::Refused { refusal, .. } => refusal.check(),
            Self::OpenData { .. } | Self::DataOpened { .. } | Self::Declared { .. } | Self::CloseSource { .. } => {
                Ok(())
            }
        }
    }
}
