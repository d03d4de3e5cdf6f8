//! One live connection of a training job: the control session, and the lane on which bytes come. It lives until either ends.

use std::ops::Deref;
use std::sync::Arc;

use headwater_fabric::planes::JobPlanes;
use headwater_fabric::{JobLane, LaneError, tcp};
use headwater_host::error::{CodedError, codes};
use headwater_protocol::wire::{DataWay, ReaderMessage};
use headwater_quic::{Identity, work};

use crate::control::Control;

/// One live connection.
pub(crate) struct Link {
    pub(crate) lane: Box<dyn JobLane>,
    control: Control,
}

impl Deref for Link {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Link {
    /// Reaches the core at one of `addresses`.
    pub(crate) async fn open(
        addresses: &[String],
        identity: &Identity,
        job: &str,
        planes: &JobPlanes,
    ) -> Result<Arc<Self>, CodedError> {
        let control = Control::open(addresses, identity).await?;
        let lane = open_lane(&control, job, planes).await?;
        Ok(Arc::new(Self { lane, control }))
    }
}

async fn open_lane(control: &Control, job: &str, planes: &JobPlanes) -> Result<Box<dyn JobLane>, CodedError> {
    let answer = control.ask(|question| ReaderMessage::OpenData { question, job: job.to_owned() }).await?;
    let ReaderMessage::DataOpened { way, .. } = answer else {
        return Err(CodedError::new(&codes::BAD_FRAME, "the core answered with something else than asked for"));
    };
    let (lane, runner) = tcp::connect(control.remote(), &way).await.map_err(|error| lane_failed(&way, &error))?;
    let (handle, ending) = (control.session().clone(), control.ending());
    work::spawn(async move {
        let error = runner.run().await;
        let why = error.to_string();
        tracing::debug!(why, "the data connection ended");
        ending.say(why);
        handle.close(0, "the data connection ended");
    });
    let mut number = [0; 4];
    work::fill_random(&mut number)
        .map_err(|_| CodedError::new(&codes::INTERNAL, "this machine's system gave no random bytes"))?;
    let (lane, runner) = planes.lane(lane, &way, u32::from_le_bytes(number)).await;
    if let Some(runner) = runner {
        work::spawn(async move {
            let why = runner.await;
            tracing::warn!(why, "reads no more over RDMA, but over TCP");
        });
    }
    Ok(lane)
}

fn lane_failed(way: &DataWay, error: &LaneError) -> CodedError {
    CodedError::new(&codes::CORE_UNREACHABLE, format!("no data connection to the core: {error}"))
        .with_hint(format!("check that TCP port {} of the core is open to this machine", way.port))
}
