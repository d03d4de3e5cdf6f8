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

#[tokio::test(flavor = "multi_thread")]
async fn a_small_cache_and_an_open_network_change_nothing_in_what_comes() {
    let files = mixed();
    let core = core_with_settings(
        &files,
        "[memory]\ncache = \"4MiB\"\nplans = \"64KiB\"\n[serving]\ntrusted_network = true\n",
    );
    let client = client(&core).await;
    let dataset = client.dataset("lab/data@1").await.expect("opened");
    read_all(&dataset, &samples(&files)).await;
    assert_eq!(client.stats().await.mismatches, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_range_of_any_file_comes() {
    let files = mixed();
    let core = core_with(&files);
    let client = client(&core).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    for (path, whole) in files.iter().filter(|(path, _)| !path.starts_with("train/") || path.ends_with("00011.png")) {
        let size = whole.len() as u64;
        for (offset, length) in
            [(0, size), (0, 1), (size / 2, 70_000), (size.saturating_sub(3), 100), (size, 5), (17, 2_000_000)]
        {
            let batch = dataset.read_range(path.as_bytes(), offset, length).await.expect("read");
            let field = batch.sample(0).expect("readable").fields().next().expect("a file");
            let expected = &whole[offset.min(size) as usize..(offset + length).min(size) as usize];
            assert_eq!(field.size, size);
            assert!(field.bytes == expected, "{path}: {length} bytes from {offset}");
        }
    }
    let none = dataset.read_range(b"train/none", 0, 1).await.expect_err("no such file");
    assert!(none.is(&codes::PATH_NOT_IN_DATASET), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_read_as_one_and_a_version_stays_what_it_is() {
    let (first, mut second) = (mixed(), crate::support::Files::new());
    for number in 0..40u64 {
        second.insert(format!("{number:03}.txt"), noise(1000 + number, 300));
    }
    let core = core_with(&first);
    import(&core, "lab/more", &second);
    core.run_command(&["collection", "create", "everything", "--match", "lab/*"]).success();
    let client = client(&core).await;
    let collection = client.dataset("everything").await.expect("opened");
    let pinned = client.dataset("lab/more@latest").await.expect("opened");
    let all: Vec<_> = samples(&first).into_iter().chain(samples(&second)).collect();
    read_all(&collection, &all).await;
    let before = samples(&second);
    second.insert("000a.txt".to_owned(), noise(5, 50));
    import(&core, "lab/more", &second);
    read_all(&pinned, &before).await;
    read_all(&client.dataset("lab/more@2").await.expect("opened"), &samples(&second)).await;
    let path = "lab/more".len() as u64;
    let batch = collection.read_member_range(1, b"001.txt", path, 10).await.expect("read");
    assert!(batch.sample(0).expect("readable").bytes() == &noise(1001, 300)[8..18]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_asked_is_said() {
    let files = mixed();
    let core = core_with(&files);
    let client = client(&core).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    let unknown = client.dataset("lab/dota").await.err().expect("there is none");
    assert!(unknown.is(&codes::NOT_FOUND) && unknown.hint.contains("`lab/data`"), "{unknown}");
    for name in ["lab/data@99", "lab/data@nightly"] {
        let error = client.dataset(name).await.err().expect("there is none");
        assert!(error.is(&codes::NOT_FOUND), "{error}");
    }
    let last = dataset.len() - 1;
    let past = dataset.read(&[0, last + 1]).await.expect_err("past the end");
    assert!(past.is(&codes::SAMPLE_OUT_OF_RANGE) && past.message.contains("lab/data@1"), "{past}");
    check(&dataset.read(&[last, 0, last]).await.expect("read"), &[last, 0, last], &samples(&files));

    let blind = crate::support::connect(&crate::support::reader_token(&core, "elsewhere/**")).await;
    let hidden = blind.dataset("lab/data").await.err().expect("no right");
    assert!(hidden.is(&codes::NOT_FOUND) && !hidden.hint.contains("lab/data"), "{hidden}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buffer_grows_only_as_far_as_it_may() {
    let files = mixed();
    let core = core_with(&files);
    let token = crate::support::reader_token(&core, "**");
    let mut options = headwater_client::Options::of_token(&token, None).expect("a token");
    (options.buffer_bytes, options.buffer_bytes_max) = (1000, 4 << 20);
    let client = headwater_client::Client::connect(options).await.expect("connected");
    let dataset = client.dataset("lab/data").await.expect("opened");
    let all = samples(&files);
    let number_of = |path: &str| all.iter().position(|sample| sample[0].0 == path).expect("a sample") as u64;
    let middle = number_of("video/middle.mp4");
    check(&dataset.read(&[middle]).await.expect("it fits"), &[middle], &all);
    let error = dataset.read(&[number_of("video/long.mp4")]).await.expect_err("it does not fit");
    assert!(error.is(&codes::SLOT_TOO_SMALL), "{error}");
    check(&dataset.read(&[0, 1, 2]).await.expect("others do"), &[0, 1, 2], &all);
}
