//! Sessions of one job agree on what they read, say what they will read, and are seen.

use std::num::NonZeroU64;

use headwater_client::order::{Fraction, Reading};
use headwater_client::{Client, Options};
use headwater_host::error::codes;
use simulations::processes::CoreProcess;

use crate::support::{Files, check, core_with, import, mixed, noise, reader_token, samples};

async fn session(token: &str, job: &str) -> Client {
    let mut options = Options::of_token(token, None).expect("a token");
    job.clone_into(&mut options.job);
    Client::connect(options).await.expect("connected")
}

fn nonzero(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).expect("not zero")
}

/// Imports a second version of `lab/data`.
fn publish_another(core: &CoreProcess, files: &Files) -> Files {
    let mut more = files.clone();
    more.insert("another.bin".to_owned(), noise(99, 5000));
    import(core, "lab/data", &more);
    more
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_stands_for_the_same_version_in_all_sessions_of_a_job() {
    let files = mixed();
    let core = core_with(&files);
    let token = reader_token(&core, "**");
    let first = session(&token, "train").await;
    assert_eq!(first.dataset("lab/data@latest").await.expect("opened").number(), 1);
    core.run_command(&["dataset", "tag", "lab/data@1", "nightly"]).success();
    assert_eq!(first.dataset("lab/data@nightly").await.expect("opened").number(), 1);
    let more = publish_another(&core, &files);
    core.run_command(&["dataset", "tag", "lab/data", "nightly", "--delete"]).success();
    core.run_command(&["dataset", "tag", "lab/data@2", "nightly"]).success();
    let second = session(&token, "train").await;
    for name in ["lab/data", "lab/data@latest", "lab/data@nightly"] {
        assert_eq!(second.dataset(name).await.expect("opened").number(), 1, "{name} in the job");
    }
    assert_eq!(second.dataset("lab/data@2").await.expect("opened").number(), 2, "what is named is read");
    first.close().await;
    second.close().await;
    let again = session(&token, "train").await;
    assert_eq!(again.dataset("lab/data").await.expect("opened").number(), 1, "started again soon after");
    let other = session(&token, "another").await;
    assert_eq!(other.dataset("lab/data").await.expect("opened").number(), 2, "another job");
    let stranger = session(&reader_token(&core, "**"), "train").await;
    assert_eq!(stranger.dataset("lab/data").await.expect("opened").number(), 2, "another token's job of that name");
    // What it stood for has gone: then it is resolved anew.
    again.close().await;
    core.run_command(&["dataset", "delete", "lab/data"]).success();
    import(&core, "lab/data", &files);
    let anew = session(&token, "train").await;
    let dataset = anew.dataset("lab/data").await.expect("opened");
    check(&dataset.read(&[0]).await.expect("read"), &[0], &samples(&more));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_reads_another_version_is_refused_while_others_read() {
    let files = mixed();
    let core = core_with(&files);
    publish_another(&core, &files);
    let token = reader_token(&core, "**");
    let ranks = [session(&token, "train").await, session(&token, "train").await];
    let reading = |rank| Reading { world_size: nonzero(2), rank, batch: 10, ..Reading::default() };
    let first = ranks[0].dataset("lab/data@1").await.expect("opened");
    first.declare(&reading(0)).await.expect("declared");
    let second = ranks[1].dataset("lab/data@2").await.expect("opened");
    let error = second.declare(&reading(1)).await.expect_err("the other rank reads version 1");
    assert!(error.is(&codes::ANOTHER_VERSION), "{error}");
    assert!(error.message.contains("rank 1 reads `lab/data@2`") && error.message.contains("`lab/data@1`"), "{error}");
    let elsewhere = session(&token, "another").await.dataset("lab/data@2").await.expect("opened");
    elsewhere.declare(&reading(1)).await.expect("another job reads what it wants");
    for senseless in [
        Reading { rank: 2, ..reading(1) },
        Reading { start: 1 << 40, ..reading(1) },
        Reading { batch: 0, ..reading(1) },
        Reading { kept: vec![0..1, 0..1], ..reading(1) },
    ] {
        let error = first.declare(&senseless).await.expect_err("it makes no sense");
        assert!(error.is(&codes::READING_SENSELESS), "{error}");
    }
    drop(first);
    ranks[0].close().await;
    let begun = std::time::Instant::now();
    while let Err(error) = second.declare(&reading(1)).await {
        assert!(error.is(&codes::ANOTHER_VERSION) && begun.elapsed().as_secs() < 60, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_and_workers_read_what_they_declared_and_status_shows_where_they_are() {
    let files = mixed();
    let mut core = core_with(&files);
    let token = core.token(&["--role", "reader", "--read", "**", "--label", "user=alice"]);
    let all = samples(&files);
    let mut seen = vec![0; all.len()];
    let mut sessions = Vec::new();
    for (rank, worker) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let client = session(&token, "train-7").await;
        let dataset = client.dataset("lab/data").await.expect("opened");
        let reading = Reading {
            seed: 3,
            epoch: 5,
            world_size: nonzero(2),
            rank,
            remainder: headwater_client::order::Remainder::Uneven,
            batch: 16,
            workers: 2,
            worker,
            ..Reading::default()
        };
        let course = dataset.declare(&reading).await.expect("declared");
        let mut batches = dataset.read_in_order(&reading, 3).await.expect("declared");
        let mut number = 0;
        while let Some(batch) = batches.next().await {
            let batch = batch.expect("read");
            check(&batch, &course.batch(number).expect("a batch"), &all);
            batch.numbers().iter().for_each(|sample| seen[*sample as usize] += 1);
            number += 1;
            if number == 5 && rank == 1 {
                core.kill();
                core.run();
            }
        }
        sessions.push((client, dataset, course));
    }
    assert!(seen.iter().all(|times| *times == 1), "each sample came once: {seen:?}");
    let status = core.ask(&["status"]);
    let rows: Vec<_> = status["readers"].as_array().expect("rows").iter().filter(|row| row["bytes"] != 0).collect();
    assert!(!rows.is_empty() && rows.len() <= 4, "{status}");
    let (last, course) = (rows.iter().find(|row| row["reads"][0]["rank"] == 1).expect("rank 1"), &sessions[3].2);
    assert_eq!((&last["job"], &last["user"], &last["plane"]), (&"train-7".into(), &"alice".into(), &"tcp".into()));
    assert!(!last["why_not_rdma"].as_str().expect("text").is_empty());
    let read = &last["reads"][0];
    assert_eq!((&read["dataset"], &read["epoch"]), (&"lab/data@1".into(), &5.into()), "{status}");
    assert_eq!((read["turn"].as_u64(), read["turns"].as_u64()), (Some(course.len()), Some(course.len())), "{status}");
    let said = core.run_command(&["status"]).success().stdout.clone();
    assert!(said.contains("train-7 of alice") && said.contains("epoch 5, rank 1 of 2"), "{said}");
    // A part of the samples, spread over all of them.
    let (_, dataset, _) = &sessions[3];
    let part = Reading {
        fraction: Fraction::new(0.1).expect("a fraction"),
        kept: std::iter::once(5..200).collect(),
        ..Reading::default()
    };
    let course = dataset.declare(&part).await.expect("declared");
    assert_eq!(course.len(), 19);
    assert!((0..19).all(|turn| course.sample(turn).is_some_and(|sample| (5..200).contains(&sample))));
}
