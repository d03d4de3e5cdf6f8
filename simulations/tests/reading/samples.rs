//! What is read is what was imported: every sample, in any order, by any member of a collection, and any range of any file.

use headwater_host::error::codes;

use crate::support::{check, client, core_with, core_with_settings, import, mixed, noise, read_all, samples};

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_comes_as_it_was_imported() {
    let files = mixed();
    let core = core_with(&files);
    let client = client(&core).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    let all = samples(&files);
    read_all(&dataset, &all).await;
    // Out of the cache.
    read_all(&dataset, &all).await;
    let stats = client.stats().await;
    assert_eq!((stats.samples, stats.mismatches, stats.connections), (2 * all.len() as u64, 0, 1));
    assert_eq!(stats.transport, Some("tcp"));
    client.close().await;
}
