//! `lab`: real daemons over links as edges have them: in a virtual machine whose kernel can emulate them, and between network
//! namespaces of this machine with a wire of our own.

mod archive;
mod goodput;
mod guest;
mod rdma;

pub(crate) use rdma::features as rdma_features;

use std::time::Duration;

use crate::setup;
use crate::world::Programs;
use guest::Guest;

/// Kernel modules that emulate links.
const LINK_MODULES: [&str; 3] = ["veth", "sch_netem", "sch_tbf"];
/// Defines the links for the scripts.
const LINKS: &str = include_str!("../../../simulations/lab/links.sh");
/// How long the short form may take where the processor is emulated and busy.
const SHORT_LIMIT: Duration = Duration::from_mins(5);

/// What to do in the lab.
pub(crate) enum Errand {
    /// One sync over a lossy link.
    Short,
    /// The goodput of daemons and of rsync over links; these only, by a part of their names, or all for the report.
    Goodput(Vec<String>),
    /// Training jobs over RDMA, and its bandwidth beside that of `ib_write_bw`.
    Rdma,
    /// Where the processor's time goes while a job reads over RDMA.
    Profile,
}

/// Does it.
pub(crate) fn run(errand: &Errand) -> anyhow::Result<()> {
    match errand {
        Errand::Short => {
            setup::ensure(&setup::LAB)?;
            short(&Programs::build(false)?)
        }
        Errand::Rdma => {
            setup::ensure(&setup::LAB)?;
            setup::ensure(&setup::RDMA)?;
            rdma::run(rdma::Extent::Full)
        }
        Errand::Profile => {
            setup::ensure(&setup::LAB)?;
            setup::ensure(&setup::RDMA)?;
            setup::ensure(&setup::PROFILE)?;
            rdma::run(rdma::Extent::Profile)
        }
        Errand::Goodput(links) => {
            setup::ensure(&setup::LINKS)?;
            goodput::run(links)
        }
    }
}

/// Why the lab can't be had here; none if it can.
pub(crate) fn lacking() -> Option<String> {
    guest::lacking()
}

/// The short form: boot, one sync over a lossy link, and the core's own verification.
pub(crate) fn short(programs: &Programs) -> anyhow::Result<()> {
    let guest = Guest {
        modules: &LINK_MODULES,
        programs: vec![programs.core.clone(), programs.agent.clone()],
        files: Vec::new(),
        script: format!("{LINKS}\n{}", include_str!("../../../simulations/lab/short.sh")),
        keeps_names: false,
        memory_mib: 1024,
        limit: SHORT_LIMIT,
    };
    guest.run(|line| println!("  {line}"))
}

/// Why RDMA can't be tried here; none if it can.
pub(crate) fn lacking_rdma() -> Option<String> {
    guest::lacking().or_else(rdma::lacking)
}

/// The tests over RDMA, without figures.
pub(crate) fn rdma_short() -> anyhow::Result<()> {
    rdma::run(rdma::Extent::Short)
}
