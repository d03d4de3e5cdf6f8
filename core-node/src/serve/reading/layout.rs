//! Where the samples of an opened source are: version by version, leaf by leaf. Pure.

use headwater_protocol::manifest::Manifest;
use headwater_protocol::tree::{LeafRef, PageSource, Tree, TreeError};

use crate::catalog::DatasetId;

/// One version of a source.
#[derive(Debug)]
pub(crate) struct Member {
    /// The dataset.
    pub(crate) dataset: DatasetId,
    /// Its name.
    pub(crate) name: String,
    /// The version's number.
    pub(crate) number: u64,
    /// The version.
    pub(crate) manifest: Manifest,
    /// The index of its samples, where they are inside files.
    pub(crate) index: Option<Manifest>,
    /// The leaf pages that hold its samples, in order.
    leaves: Vec<LeafRef>,
    /// Samples of the source before this version.
    first: u64,
}

/// A sample's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The version.
    pub(crate) member: &'a Member,
    /// The leaf page.
    pub(crate) leaf: &'a LeafRef,
    /// The sample's number in the page.
    pub(crate) sample: usize,
}

impl Place<'_> {
    /// The number, in the source, of the page's first sample.
    pub(crate) fn first(&self) -> u64 {
        self.member.first + self.leaf.before.samples
    }
}

impl Member {
    /// Finds the leaves of a version; reads the pages above them, and none of them.
    pub(crate) fn new(
        dataset: DatasetId,
        name: String,
        number: u64,
        (manifest, index): (Manifest, Option<Manifest>),
        pages: &dyn PageSource,
    ) -> Result<Self, TreeError> {
        let sampled = index.as_ref().unwrap_or(&manifest);
        let leaves: Result<Vec<_>, _> = Tree::new(sampled, pages).leaves().collect();
        // A leaf without samples (folders only) is no place for one.
        let leaves = leaves?.into_iter().filter(|leaf| leaf.child.samples > 0).collect();
        Ok(Self { dataset, name, number, manifest, index, leaves, first: 0 })
    }

    /// The tree that holds its samples: the index, or the version itself.
    pub(crate) fn sampled(&self) -> &Manifest {
        self.index.as_ref().unwrap_or(&self.manifest)
    }

    /// Its name and number.
    pub(crate) fn label(&self) -> String {
        format!("{}@{}", self.name, self.number)
    }
}

/// The versions of a source, whose samples come one after the other.
#[derive(Debug)]
pub(crate) struct Layout {
    members: Vec<Member>,
    samples: u64,
}

impl Layout {
    pub(crate) fn new(mut members: Vec<Member>) -> Self {
        let mut samples = 0u64;
        for member in &mut members {
            member.first = samples;
            samples = samples.saturating_add(member.sampled().totals().samples);
        }
        Self { members, samples }
    }

    /// How many samples there are.
    pub(crate) const fn samples(&self) -> u64 {
        self.samples
    }

    /// The versions.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Where sample number `sample` is; none past the end.
    pub(crate) fn place(&self, sample: u64) -> Option<Place<'_>> {
        if sample >= self.samples {
            return None;
        }
        let member = &self.members[self.members.partition_point(|member| member.first <= sample) - 1];
        let within = sample - member.first;
        let leaf = &member.leaves[member.leaves.partition_point(|leaf| leaf.before.samples <= within) - 1];
        Some(Place { member, leaf, sample: (within - leaf.before.samples) as usize })
    }
}
