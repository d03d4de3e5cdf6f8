//! What is urgent goes first, and what is not still moves: on a link that is capped, so that it matters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_quic::session::{Priority, SessionEvent, SessionEvents, SessionHandle, SessionOptions};
use headwater_quic::transfer::{Progress, ProgressSink, no_progress};
use headwater_quic::{ClientOptions, WireMeter};

use crate::memory::{Folder, Store, Version, noise};
use crate::{PATIENCE, pair_over, support};

const CAP: u64 = 2_000_000;
const URGENT_BYTES: usize = 6 << 20;
const BULK_BYTES: usize = 8 << 20;

fn version(seed: u64, length: usize) -> Arc<Version> {
    Version::of(&Folder::from([("file.bin".to_owned(), noise(seed, length))]))
}

/// Takes every offer; the bytes of the first are counted.
async fn take((handle, mut events): (SessionHandle, SessionEvents), first_came: Arc<AtomicU64>) {
    let counts: ProgressSink =
        Arc::new(move |progress: &Progress| first_came.store(progress.bytes_done, Ordering::Relaxed));
    let mut sinks = vec![no_progress(), counts];
    while let Some(event) = events.next().await {
        if let SessionEvent::Offer(offer) = event {
            let (handle, sink) = (handle.clone(), sinks.pop().expect("two offers"));
            tokio::spawn(async move {
                handle.receive_version(offer, Arc::new(Store::default()), sink).await.expect("received")
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_urgent_goes_first_and_nothing_starves() {
    let meter = WireMeter::new();
    meter.set_cap(Some(CAP));
    let dialling = ClientOptions { meter: Some(meter), ..support::quick() };
    let pair = pair_over(&dialling, SessionOptions { item_streams: 1, ..SessionOptions::default() }).await;
    let bulk_came = Arc::new(AtomicU64::new(0));
    tokio::spawn(take(pair.core, Arc::clone(&bulk_came)));
    let device = pair.device.0.clone();
    let send = |version: Arc<Version>, priority| {
        let device = device.clone();
        tokio::spawn(async move {
            device.send_version(version.outgoing(), priority, version.clone(), no_progress()).await.expect("sent")
        })
    };
    let bulk = send(version(1, BULK_BYTES), Priority::Bulk);
    let came = || bulk_came.load(Ordering::Relaxed);
    tokio::time::timeout(PATIENCE, async {
        while came() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let before = came();
        send(version(2, URGENT_BYTES), Priority::ModelUpdate).await.expect("ran");
        let meanwhile = (came() - before) as usize;
        assert!(
            meanwhile >= URGENT_BYTES / 40,
            "only {meanwhile} bytes of bulk came beside {URGENT_BYTES} urgent ones"
        );
        assert!(meanwhile <= URGENT_BYTES / 2, "{meanwhile} bytes of bulk came before {URGENT_BYTES} urgent ones");
        bulk.await.expect("ran");
    })
    .await
    .expect("in time");
}
