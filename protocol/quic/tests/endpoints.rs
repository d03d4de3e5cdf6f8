//! Endpoints over real loopback sockets: who is let in, who is not, and what each is told.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headwater_protocol::trust::{Fingerprint, SecretDigest, Signer, Token};
use headwater_protocol::wire::{Message, Refusal};
use headwater_quic::endpoint::close;
use headwater_quic::{
    Arrival, ArrivalError, Authority, ClientOptions, ConnectError, ControlStream, FrameError, Identity, IdentityKey,
    JoinDesk, JoinError, JoinReply, JoinRequest, ServerOptions, connect, join, listen, serve_join,
};
use quinn::VarInt;
use support::{arrival, core, device, dial, quick, raw_connect, raw_connect_for, raw_server, session};

#[tokio::test]
async fn a_session_carries_messages_both_ways() {
    let core = core("core");
    let identity = device(&core, "cam-01");
    let dial = dial(core.address, &identity);
    let (dialled, (accepted, name)) = tokio::join!(dial, session(&core));
    let dialled = dialled.expect("connected");
    assert_eq!(name, "cam-01");

    let mut ours = ControlStream::open(&dialled).await.expect("a stream");
    ours.send(&Message::Ping(7)).await.expect("sent");
    let mut theirs = ControlStream::accept(&accepted).await.expect("a stream");
    assert_eq!(theirs.expect().await.expect("received"), Message::Ping(7));
    let big = Message::Control { request: 1, body: "x".repeat(400_000) };
    let (sent, received) = tokio::join!(theirs.send(&big), ours.expect());
    sent.expect("sent");
    assert_eq!(received.expect("received"), big);
    let (mut sender, _) = theirs.split();
    sender.finish();
    assert_eq!(ours.recv().await.expect("a clean end"), None);

    accepted.close(close::REVOKED, b"the device cam-01 was revoked");
    let error = dialled.closed().await;
    assert_eq!(close::said(&error), Some((close::REVOKED, "the device cam-01 was revoked".to_owned())));
}

#[tokio::test]
async fn a_core_of_another_authority_is_not_trusted() {
    let (ours, theirs) = (core("ours"), core("theirs"));
    let identity = device(&ours, "cam-01");
    let (dialled, arrived) = tokio::join!(dial(theirs.address, &identity), arrival(&theirs));
    let error = dialled.expect_err("not ours");
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
    assert!(error.to_string().contains("is not the core that this device knows"));
    assert!(matches!(arrived, Err(ArrivalError::Handshake { .. })));
}

#[tokio::test]
async fn a_device_cannot_pose_as_a_core() {
    let core = core("core");
    let impostor = device(&core, "impostor");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    assert!(listen(any, &core.authority, &impostor, &ServerOptions::default()).is_err());
}

#[tokio::test]
async fn a_device_of_another_authority_is_told_so() {
    let (ours, theirs) = (core("ours"), core("theirs"));
    // A device that trusts our core, but whose own certificate is of another authority.
    let stranger = device(&theirs, "stranger");
    let listener = ours.listener.clone();
    let serving = tokio::spawn(async move { listener.accept().await.expect("someone").finish().await });
    let connection = raw_connect(&ours, Some(&stranger)).await;
    let said = close::said(&connection.closed().await).expect("told why");
    assert_eq!(said.0, close::UNKNOWN_PEER);
    assert!(said.1.contains("`stranger` was not issued by this authority"), "{}", said.1);
    assert!(matches!(serving.await.expect("ran"), Err(ArrivalError::Certificate { .. })));
}

#[tokio::test]
async fn without_a_certificate_there_is_no_session() {
    let core = core("core");
    let listener = core.listener.clone();
    let serving = tokio::spawn(async move { listener.accept().await.expect("someone").finish().await });
    let connection = raw_connect(&core, None).await;
    let said = close::said(&connection.closed().await).expect("told why");
    assert_eq!(said.0, close::UNKNOWN_PEER);
    assert!(said.1.contains("join it with a token first"), "{}", said.1);
    assert!(matches!(serving.await.expect("ran"), Err(ArrivalError::NoCertificate(_))));
}

#[tokio::test]
async fn a_device_certificate_is_no_core_certificate_to_other_devices() {
    let core = core("core");
    let (victim, impostor) = (device(&core, "victim"), device(&core, "impostor"));
    let server = raw_server(&impostor, &core);
    let address = server.local_addr().expect("bound");
    let serving = tokio::spawn(async move { server.accept().await.expect("someone").await });
    let error = connect(address, &victim, &quick()).await.expect_err("not a core");
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
    assert!(serving.await.expect("ran").is_err());
}

#[derive(Default)]
struct Desk {
    asked: AtomicUsize,
    authority: Option<Authority>,
    secret: Option<SecretDigest>,
}

impl JoinDesk for Desk {
    fn admit<'a>(
        &'a self,
        request: JoinRequest,
    ) -> Pin<Box<dyn Future<Output = Result<JoinReply, Refusal>> + Send + 'a>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let authority = self.authority.as_ref().expect("set");
            if Some(request.secret) != self.secret {
                let [code, message, hint] = ["HW-0000", "this token is not known", "make another"].map(str::to_owned);
                return Err(Refusal { code, message, hint });
            }
            Ok(JoinReply {
                certificate: authority.issue_device(&request.key, &request.name).expect("a certificate"),
                name: request.name,
                labels: vec![("site".into(), "berlin".into())],
                addresses: Vec::new(),
            })
        })
    }
}

fn serve_joins(core: &support::Core, folder: &std::path::Path, secret: [u8; 16]) -> Arc<Desk> {
    // A second handle on the same authority.
    let authority = Authority::load(folder).expect("loaded");
    let desk =
        Arc::new(Desk { authority: Some(authority), secret: Some(SecretDigest::of(&secret)), ..Desk::default() });
    let (listener, served) = (core.listener.clone(), desk.clone());
    tokio::spawn(async move {
        while let Some(arriving) = listener.accept().await {
            if let Ok(Arrival::Join(connection)) = arriving.finish().await {
                let _ = serve_join(connection, &*served).await;
            }
        }
    });
    desk
}

#[tokio::test]
async fn joining_gives_a_certificate_that_opens_sessions() {
    let core = core("core");
    let desk = serve_joins(&core, core.folder.path(), [7; 16]);
    let token = Token::new(vec![core.address.to_string()], core.authority.fingerprint(), [7; 16]).expect("a token");
    let token = Token::parse(&token.to_text()).expect("the text of a token");
    let key = IdentityKey::generate().expect("a key");
    let joined = join(&token, "cam-01", &key, &quick()).await.expect("joined");
    assert_eq!((joined.name.as_str(), joined.identity.public_key()), ("cam-01", key.public_key()));
    assert_eq!(joined.labels, [("site".to_owned(), "berlin".to_owned())]);
    assert_eq!(joined.addresses, [core.address.to_string()]);
    connect(core.address, &joined.identity, &quick()).await.expect("the certificate is good");

    let wrong = Token::new(vec![core.address.to_string()], core.authority.fingerprint(), [8; 16]).expect("a token");
    let error = join(&wrong, "cam-02", &key, &quick()).await.expect_err("unknown");
    assert!(matches!(&error, JoinError::Refused(refusal) if refusal.hint == "make another"), "{error:?}");
    assert_eq!(desk.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_token_of_another_core_reveals_nothing() {
    let core = core("core");
    let desk = serve_joins(&core, core.folder.path(), [7; 16]);
    let token = Token::new(vec![core.address.to_string()], Fingerprint([1; 32]), [7; 16]).expect("a token");
    let key = IdentityKey::generate().expect("a key");
    let error = join(&token, "cam-01", &key, &quick()).await.expect_err("another core");
    assert!(matches!(error, JoinError::OtherCore { .. }), "{error:?}");
    assert_eq!(desk.asked.load(Ordering::SeqCst), 0, "the secret was shown to a core that the token does not name");
}

#[tokio::test]
async fn unreachable_addresses_are_all_named() {
    let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let token = Token::new(vec![free.to_string(), "no-such-host.invalid:1".into()], Fingerprint([1; 32]), [7; 16]);
    let options = ClientOptions { connect_timeout: Duration::from_millis(200), ..ClientOptions::default() };
    let key = IdentityKey::generate().expect("a key");
    let error = join(&token.expect("a token"), "cam-01", &key, &options).await.expect_err("nobody there").to_string();
    assert!(error.contains(&free.to_string()) && error.contains("no-such-host.invalid"), "{error}");
}

#[tokio::test]
async fn bad_frames_are_named() {
    let core = core("core");
    let identity = device(&core, "cam-01");
    let truncated: (&[u8], bool) = (&[100, 0, 0, 0, 1, 2, 3], true);
    let cases: [((&[u8], bool), &str); 5] = [
        ((&[0xff; 4], false), "4294967295 bytes, over the limit"),
        (truncated, "ended inside a control message: 3 of 100 bytes"),
        ((&[1, 0], true), "ended inside a control message: 2 of 4 bytes"),
        ((&[8, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false), "invalid frame"),
        ((&[0, 0, 0, 0], false), "invalid frame"),
    ];
    for ((bytes, ends), wanted) in cases {
        let (dialled, (accepted, _)) = tokio::join!(dial(core.address, &identity), session(&core));
        let (mut send, _receive) = dialled.expect("connected").open_bi().await.expect("a stream");
        send.write_all(bytes).await.expect("sent");
        if ends {
            send.finish().expect("ended");
        }
        let mut control = ControlStream::accept(&accepted).await.expect("a stream");
        let error = control.recv().await.expect_err("garbage");
        assert!(error.is_protocol_violation(), "{error:?}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn a_lost_connection_is_told_from_a_broken_protocol() {
    let core = core("core");
    let identity = device(&core, "cam-01");
    let (dialled, (accepted, _)) = tokio::join!(dial(core.address, &identity), session(&core));
    let mut control = ControlStream::open(&dialled.expect("connected")).await.expect("a stream");
    control.send(&Message::Ping(1)).await.expect("sent");
    accepted.close(VarInt::from_u32(0x102), b"not today");
    let error = control.expect().await.expect_err("closed");
    assert!(!error.is_protocol_violation());
    assert!(matches!(error, FrameError::Read(_)));
    assert_eq!(error.connection_error().map(close::describe), Some("not today".to_owned()));
}

#[tokio::test]
async fn garbage_datagrams_disturb_nobody() {
    let core = core("core");
    let identity = device(&core, "cam-01");
    let (dialled, (accepted, _)) = tokio::join!(dial(core.address, &identity), session(&core));
    let dialled = dialled.expect("connected");
    let noise = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..2000usize {
        let datagram: Vec<u8> = (0..(round * 37) % 1500)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        noise.send_to(&datagram, core.address).expect("sent");
    }
    let mut ours = ControlStream::open(&dialled).await.expect("a stream");
    ours.send(&Message::Ping(7)).await.expect("sent");
    let mut theirs = ControlStream::accept(&accepted).await.expect("a stream");
    assert_eq!(theirs.expect().await.expect("received"), Message::Ping(7));
    let (again, _) = tokio::join!(dial(core.address, &identity), session(&core));
    again.expect("new sessions still begin");
}

#[tokio::test]
async fn the_loopback_mtu_is_used_without_probing() {
    let core = core("core");
    let identity = device(&core, "cam-01");
    let (dialled, (accepted, _)) = tokio::join!(dial(core.address, &identity), session(&core));
    let dialled = dialled.expect("connected");
    assert!(dialled.stats().path.current_mtu > 60_000, "{}", dialled.stats().path.current_mtu);
    assert!(accepted.stats().path.current_mtu > 60_000, "{}", accepted.stats().path.current_mtu);
}

#[tokio::test]
async fn a_connection_survives_a_new_local_address() {
    let core = core("core");
    let identity = device(&core, "cam-01");
    let dialler = headwater_quic::Dialler::bind(core.address, &quick()).expect("a socket");
    let (dialled, (accepted, _)) = tokio::join!(dialler.connect(core.address, &identity), session(&core));
    let dialled = dialled.expect("connected");
    let before = accepted.remote_address();
    dialler.rebind(core.address).expect("another socket");
    let mut ours = ControlStream::open(&dialled).await.expect("a stream");
    ours.send(&Message::Ping(7)).await.expect("sent");
    let mut theirs = ControlStream::accept(&accepted).await.expect("a stream");
    assert_eq!(theirs.expect().await.expect("received"), Message::Ping(7));
    assert_ne!(accepted.remote_address(), before);
}

#[tokio::test]
async fn one_who_is_not_recognised_can_not_fill_the_memory_of_a_core() {
    const BYTES: usize = 1 << 20;
    let core = core("core");
    let identity = device(&core, "cam-01");
    let takes = async |connection: &quinn::Connection| {
        let mut stream = connection.open_uni().await.expect("a stream");
        tokio::time::timeout(Duration::from_millis(500), stream.write_all(&vec![0; BYTES])).await.is_ok()
    };
    let (stranger, arrived) = tokio::join!(raw_connect_for(&core, None, b"headwater-join/1"), arrival(&core));
    let Ok(Arrival::Join(_joining)) = arrived else { panic!("{arrived:?}") };
    assert!(!takes(&stranger).await, "a core took a megabyte that nobody reads from one who wants to join");
    let (dialled, _accepted) = tokio::join!(dial(core.address, &identity), session(&core));
    assert!(takes(&dialled.expect("connected")).await, "a session has its whole window");
}

/// A runtime whose end is the end of a process: nobody is told.
fn machine() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

#[test]
fn a_device_notices_at_once_that_its_core_was_restarted() {
    let (before, here) = (machine(), machine());
    let core = before.block_on(async { core("core") });
    let identity = device(&core, "cam-01");
    let dialled = before.block_on(async {
        let accepting = tokio::spawn({
            let listener = core.listener.clone();
            async move { listener.accept().await.expect("someone").finish().await }
        });
        let dialled = here.spawn(async move { connect(core.address, &identity, &quick()).await.expect("connected") });
        (dialled.await.expect("no panic"), accepting.await.expect("no panic").expect("a session"))
    });
    let (connection, at_core) = dialled;
    // Waited for: whoever still runs could say a word to the other end.
    before.shutdown_timeout(Duration::from_secs(20));
    drop((core.listener, at_core));

    let after = machine();
    let _inside = after.enter();
    let authority = Authority::load(core.folder.path()).expect("loaded");
    let itself = Identity::load(core.folder.path()).expect("loaded");
    let again = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(10));
        listen(core.address, &authority, &itself, &ServerOptions::default())
    });
    let _listener = again.take(1000).find_map(Result::ok).expect("the port is free again");
    let ended = here.block_on(async {
        let mut stream = connection.open_uni().await.expect("nothing is known yet");
        stream.write_all(&[7; 100]).await.expect("it goes into the window");
        tokio::time::timeout(Duration::from_secs(20), connection.closed()).await
    });
    assert_eq!(ended.ok(), Some(quinn::ConnectionError::Reset), "it waits for the silence to last long enough");
}
