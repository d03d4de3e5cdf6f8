//! The control interface: one request enum, one handler, whoever asks and however the question came.

mod answer;
mod collections;
mod datasets;
mod export;
mod federation;
mod handler;
mod housekeeping;
mod import;
mod labels;
mod models;
mod people;
mod request;
mod select;
mod training;
mod upkeep;

pub use answer::{
    Answer, ChangeRow, CollectionRow, DamageRow, DatasetRow, DeviceRow, Done, ErrorRow, FileRow, Finding, MemberRow,
    NewToken, Progress, ReadRow, ReaderRow, RunRow, SessionRow, StatusRow, TokenRow, VersionRow, WorkerRow,
};
pub use handler::{Asker, Emitter, LocalHandler, answer};
pub use housekeeping::gc_options;
pub use request::{CollectionCreate, Request, TokenCreate};

pub use training::{EventRow, FederationRow, ModelRow, ParticipantRow, RoundRow, TensorRow, UpdateRow};

pub(crate) use collections::{add_edition, members_of};
pub(crate) use datasets::{hold as held_version, manifest_of, tree_failed};
pub(crate) use handler::{catalog_failed, not_found};
pub(crate) use housekeeping::{collect_garbage, damaged_versions, gc_due_in};
pub(crate) use import::commit_folder;
pub(crate) use people::revoked;
pub(crate) use upkeep::{refresh_gauges, status_row};
