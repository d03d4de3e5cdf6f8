//! Which planes a process has: TCP always, RDMA where it was built with the feature `rdma` and the machine has a device.

use futures_util::future::BoxFuture;
use headwater_protocol::delivery::ReadRequest;
use headwater_protocol::wire::DataWay;
use tokio::sync::mpsc;

use crate::memory::Region;
use crate::offer::Endpoint;
use crate::plane::{CoreLane, JobLane};
use crate::settings::RdmaSettings;
use crate::tcp::TcpJobLane;

#[cfg(feature = "rdma")]
use std::sync::Arc;

#[cfg(feature = "rdma")]
use crate::rdma::{self, CoreFabric, Domain};

/// What moves an agreed lane; it has to be run, and says at its end why it came.
pub type Runner = BoxFuture<'static, String>;

#[cfg(not(feature = "rdma"))]
const NOT_BUILT: &str = "this program was built without RDMA";

/// The device that RDMA uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaDevice {
    /// Its name, such as `mlx5_0`.
    pub name: String,
    /// Which of its ports.
    pub port: u8,
    /// The address there, by its place in the port's table.
    pub gid_index: u8,
    /// All of that and why it was chosen, for people.
    pub said: String,
}

/// The planes of a job's process.
#[derive(Debug)]
pub struct JobPlanes {
    #[cfg(feature = "rdma")]
    rdma: Result<Arc<Domain>, String>,
    #[cfg(not(feature = "rdma"))]
    rdma: &'static str,
}

impl JobPlanes {
    /// Looks for a device.
    pub fn open(settings: &RdmaSettings) -> Self {
        #[cfg(feature = "rdma")]
        return Self { rdma: open(settings) };
        #[cfg(not(feature = "rdma"))]
        return Self { rdma: if settings.enabled { NOT_BUILT } else { "switched off" } };
    }

    /// The best lane to the core on the other end of `tcp`. It never fails: without RDMA it is `tcp` itself. `packet_number` is drawn by
    /// chance.
    #[cfg_attr(
        not(feature = "rdma"),
        expect(clippy::unused_async, reason = "only RDMA has to wait for the other side")
    )]
    pub async fn lane(&self, tcp: TcpJobLane, way: &DataWay, packet_number: u32) -> (Box<dyn JobLane>, Option<Runner>) {
        #[cfg(feature = "rdma")]
        if let Ok(domain) = &self.rdma {
            let (lane, runner) = rdma::job::connect(tcp, domain, way.requests_max, packet_number).await;
            return (Box::new(lane), runner.map(|runner| -> Runner { Box::pin(runner.run()) }));
        }
        let _ = (way, packet_number);
        (Box::new(tcp), None)
    }

    /// The device, or why there is none and lanes are not RDMA from the start.
    pub fn rdma(&self) -> Result<RdmaDevice, String> {
        #[cfg(feature = "rdma")]
        return self.rdma.as_ref().map(|domain| device(domain)).map_err(Clone::clone);
        #[cfg(not(feature = "rdma"))]
        return Err(self.rdma.to_owned());
    }
}

/// The planes of a core.
#[derive(Debug)]
pub struct CorePlanes {
    #[cfg(feature = "rdma")]
    rdma: Result<Arc<CoreFabric>, String>,
    #[cfg(not(feature = "rdma"))]
    rdma: &'static str,
}

/// RDMA that was agreed upon with a job.
pub struct AgreedRdma {
    /// Where the job finds the core's end.
    pub endpoint: Endpoint,
    /// Where answers go.
    pub lane: Box<dyn CoreLane>,
    /// What the job asks for over RDMA.
    pub requests: mpsc::Receiver<ReadRequest>,
    /// What moves all this.
    pub runner: Runner,
}

impl CorePlanes {
    /// Looks for a device, and registers the memory of the cache with it.
    pub fn open(settings: &RdmaSettings, cache: &Region) -> Self {
        #[cfg(feature = "rdma")]
        return Self {
            rdma: open(settings).and_then(|domain| {
                let registered = CoreFabric::new(&domain, cache);
                registered.map_err(|error| {
                    format!("{} bytes of cache can't be registered: {error} (`ulimit -l`)", cache.len())
                })
            }),
        };
        #[cfg(not(feature = "rdma"))]
        {
            let _ = cache;
            Self { rdma: if settings.enabled { NOT_BUILT } else { "switched off" } }
        }
    }

    /// Agrees with a job that offers RDMA and may have `requests_max` requests under way; or why not. `packet_number` is drawn by chance.
    pub fn agree(&self, job: &Endpoint, requests_max: u32, packet_number: u32) -> Result<AgreedRdma, String> {
        #[cfg(feature = "rdma")]
        {
            let fabric = self.rdma.as_ref().map_err(|why| format!("the core has no RDMA: {why}"))?;
            let agreed = rdma::core::accept(fabric, job, requests_max, packet_number)?;
            Ok(AgreedRdma {
                endpoint: agreed.endpoint,
                lane: Box::new(agreed.lane),
                requests: agreed.requests,
                runner: Box::pin(agreed.runner.run()),
            })
        }
        #[cfg(not(feature = "rdma"))]
        {
            let _ = (job, requests_max, packet_number);
            Err(format!("the core has no RDMA: {}", self.rdma))
        }
    }

    /// The device, or why there is none.
    pub fn rdma(&self) -> Result<RdmaDevice, String> {
        #[cfg(feature = "rdma")]
        return self.rdma.as_ref().map(|fabric| device(fabric.domain())).map_err(Clone::clone);
        #[cfg(not(feature = "rdma"))]
        return Err(self.rdma.to_owned());
    }
}

#[cfg(feature = "rdma")]
fn device(domain: &Domain) -> RdmaDevice {
    let (gid, gid_index, why) = domain.gid();
    let (name, port) = (domain.name().to_owned(), domain.port());
    let said = format!("{name} port {port}, GID {gid_index} = {gid} ({why})");
    RdmaDevice { name, port, gid_index, said }
}

#[cfg(feature = "rdma")]
fn open(settings: &RdmaSettings) -> Result<Arc<Domain>, String> {
    if !settings.enabled {
        return Err("switched off".to_owned());
    }
    Domain::open(settings).map(Arc::new).map_err(|error| rdma::chain(&error))
}
