//! What can be tested only with certificates that no core would issue.

use std::net::{Ipv4Addr, SocketAddr};

use headwater_protocol::trust::Signer;
use rcgen::ExtendedKeyUsagePurpose;

use super::*;
use crate::identity::{Authority, Identity, IdentityKey};

#[tokio::test]
async fn expired_certificates_still_connect() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(folder.path(), "core").expect("an authority");
    let expired = |name: &str, usage| {
        let key = IdentityKey::generate().expect("a key");
        let certificate = authority.issue_expired(&key.public_key(), name, usage);
        Identity::new(key, certificate, authority.certificate().to_vec()).expect("they fit")
    };
    let (core, device) =
        (expired("core", ExtendedKeyUsagePurpose::ServerAuth), expired("cam-01", ExtendedKeyUsagePurpose::ClientAuth));
    assert!(device.parsed().wants_renewal(device.parsed().not_after_s + 1));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = listen(any, &authority, &core, &ServerOptions::default()).expect("a listener");
    let address = listener.local_address().expect("bound");
    let options = ClientOptions::default();
    let (dialled, arrived) = tokio::join!(connect(address, &device, &options), async {
        listener.accept().await.expect("someone").finish().await
    });
    dialled.expect("connected");
    let Ok(Arrival::Session { peer, .. }) = arrived else { panic!("{arrived:?}") };
    assert_eq!((peer.key, peer.name.as_str()), (device.public_key(), "cam-01"));

    // The core then renews: the same key, a new certificate.
    let renewed = authority.issue_device(&peer.key, &peer.name).expect("a certificate");
    let device = device.renewed(renewed).expect("the same key");
    assert!(!device.parsed().wants_renewal(device.parsed().not_before_s));
}
