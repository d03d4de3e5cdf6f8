//! What a core reads from its packs for jobs, counted: less where it knows what comes.

use std::io::{Read, Write};
use std::net::TcpStream;

use headwater_client::order::{Course, Reading};
use simulations::processes::CoreProcess;

use crate::support::{Files, check, client, core_with_settings, noise, samples};

/// Epochs that are counted, after a first one that fills the cache: so many that what meets by chance in the cache, some
/// percent of what one epoch reads, does not decide.
const EPOCHS: u64 = 24;

/// Number `kind` of `family` among the core's metrics.
fn metric(core: &CoreProcess, family: &str, kind: &str) -> u64 {
    let address = core.ask(&["status"])["admin"].as_str().expect("an address").to_owned();
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: core\r\nConnection: close\r\n\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    let line = format!("headwater_core_{family}{{kind=\"{kind}\"}} ");
    let value = page.lines().find_map(|found| found.strip_prefix(&line)).unwrap_or_else(|| panic!("{line} in {page}"));
    value.parse().expect("a number")
}

/// Chunks that are read from packs for some shuffled epochs of twice what fits into memory.
async fn reads(declared: bool) -> (u64, u64) {
    let files: Files = (0..48u64).map(|number| (format!("{number:02}.bin"), noise(number, 180_000))).collect();
    let core = core_with_settings(&files, "[memory]\ncache = \"4608KiB\"\n");
    let client = client(&core).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    let all = samples(&files);
    let mut before = 0;
    for epoch in 0..=EPOCHS {
        if epoch == 1 {
            before = metric(&core, "store_work", "read_chunks");
        }
        let reading = Reading { seed: 5, epoch, batch: 4, ..Reading::default() };
        let course = Course::new(&reading, dataset.id(), dataset.len()).expect("it makes sense");
        if declared {
            dataset.declare(&reading).await.expect("declared");
        }
        let mut batches = dataset.batches(course.clone().into_batches(), 1);
        let mut number = 0;
        while let Some(batch) = batches.next().await {
            check(&batch.expect("read"), &course.batch(number).expect("a batch"), &all);
            number += 1;
        }
    }
    (metric(&core, "store_work", "read_chunks") - before, metric(&core, "cache_chunks", "ahead"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_is_read_from_packs_less_often() {
    let (undeclared, none) = reads(false).await;
    let (declared, ahead) = reads(true).await;
    println!("{undeclared} chunks read undeclared, {declared} declared, {ahead} of them ahead");
    assert_eq!(none, 0, "nothing is read ahead of who does not say where it goes");
    assert!(ahead > 0, "nothing was read ahead");
    // Every chunk is needed once on each side of the end of an epoch, so half of them is all that half of the cache can save;
    // undeclared, an eighth of that is spent on what passes through.
    assert!(declared * 100 < undeclared * 97, "{declared} chunks read where {undeclared} are read undeclared");
}
