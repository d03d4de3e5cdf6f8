//! The link of an agent as its settings make it, and what a closed one says.

use std::time::Duration;

use headwater_host::error::codes;

use super::*;

fn agent(settings: &str) -> (tempfile::TempDir, Arc<Agent>) {
    let data = tempfile::tempdir().expect("a folder");
    std::fs::write(data.path().join("agent.toml"), settings).expect("written");
    let agent = Agent::open(data.path(), None).expect("opened");
    (data, agent)
}

#[tokio::test]
async fn a_closed_link_says_until_when() {
    // All of the week but the minute that began twelve hours ago.
    let minute = (clock::now_s().rem_euclid(86_400) / 60 + 720) % 1440;
    let time = |minute: i64| format!("{:02}:{:02}", minute % 1440 / 60, minute % 60);
    let (_data, agent) =
        agent(&format!("[[link.schedule]]\nfrom = \"{}\"\nto = \"{}\"\nup = \"0\"\n", time(minute + 1), time(minute)));
    let error = admit(&agent).await.expect_err("closed");
    assert!(error.is(&codes::LINK_CLOSED), "{error}");
    let said = "waits for the schedule, which opens the link at ";
    assert!(
        error.message.contains(said) && error.message.ends_with(&format!("{} (UTC+00:00)", time(minute))),
        "{error}"
    );
    assert_eq!((agent.gate().closed(), agent.gate().meter().cap()), (Some(Closed::Schedule), Some(0)));
}

#[tokio::test]
async fn an_open_link_has_its_cap() {
    let (_data, agent) = agent("[link]\nup = \"2 Mbit/s\"\n[link.budget]\nmonth = \"1GB\"\n");
    admit(&agent).await.expect("open");
    assert_eq!(agent.gate().meter().cap(), Some(250_000));
    tokio::time::timeout(Duration::from_secs(30), agent.gate().opens()).await.expect("it is open");
}

#[tokio::test]
async fn a_spent_month_closes_the_link() {
    let (_data, agent) = agent("[link.budget]\nmonth = \"1GB\"\nreserve = \"100MB\"\n");
    let month = agent.settings().link.policy().month(clock::now_s());
    agent.catalog().put_meta(&format!("spent/{month}"), &900_000_000u64.to_le_bytes()).expect("kept");
    let error = admit(&agent).await.expect_err("spent");
    let next = format!("the next month at {}-01 00:00 (UTC+00:00)", month.next());
    assert!(error.is(&codes::LINK_CLOSED) && error.message.contains(&next), "{error}");
}

#[tokio::test]
async fn the_reserve_of_a_month_opens_the_link_for_updates_alone() {
    let (data, agent) = agent(
        "[link.budget]\nmonth = \"1GB\"\nreserve = \"100MB\"\n[[publish]]\nfolder = \"/nowhere\"\ndataset = \"weights\"\nurgent = true\n[[publish]]\nfolder = \"/other\"\ndataset = \"pictures\"\n",
    );
    let month = agent.settings().link.policy().month(clock::now_s());
    agent.catalog().put_meta(&format!("spent/{month}"), &900_000_000u64.to_le_bytes()).expect("kept");
    agent.set_unsent("pictures", true);
    admit(&agent).await.expect_err("pictures are no update");
    agent.set_unsent("weights", true);
    admit(&agent).await.expect("an update waits");
    let month_ends_s = agent.gate().reserved_until().expect("only for that");
    assert_eq!(agent.settings().link.policy().month(month_ends_s), month.next());
    let session_ends = agent.gate().closes();
    tokio::pin!(session_ends);
    tokio::time::timeout(Duration::from_millis(10), &mut session_ends).await.expect_err("it goes on while it waits");
    agent.set_unsent("weights", false);
    look(&agent).await.expect("looked");
    session_ends.await;
    assert_eq!((agent.gate().closed(), agent.gate().reserved_until()), (Some(Closed::Budget), None));
    drop(data);
}
