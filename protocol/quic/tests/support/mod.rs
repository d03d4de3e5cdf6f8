//! A core and devices on loopback, and clients and servers that are not ours.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use headwater_protocol::trust::Signer;
use headwater_quic::{
    Arrival, ArrivalError, Authority, ClientOptions, ConnectError, Identity, IdentityKey, Listener, ServerOptions,
    connect, listen,
};
use quinn::Connection;

/// A core that listens on loopback.
pub(crate) struct Core {
    pub(crate) authority: Authority,
    pub(crate) listener: Listener,
    pub(crate) address: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn core(name: &str) -> Core {
    core_with(name, &ServerOptions::default())
}

pub(crate) fn core_with(name: &str, options: &ServerOptions) -> Core {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(folder.path(), name).expect("an authority");
    let identity = authority.core_identity(folder.path(), name).expect("an identity");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = listen(any, &authority, &identity, options).expect("a listener");
    let address = listener.local_address().expect("bound");
    Core { authority, listener, address, folder }
}

pub(crate) fn device(core: &Core, name: &str) -> Identity {
    let key = IdentityKey::generate().expect("a key");
    let certificate = core.authority.issue_device(&key.public_key(), name).expect("a certificate");
    Identity::new(key, certificate, core.authority.certificate().to_vec()).expect("they fit")
}

pub(crate) fn quick() -> ClientOptions {
    ClientOptions { connect_timeout: Duration::from_secs(2), ..ClientOptions::default() }
}

pub(crate) async fn arrival(core: &Core) -> Result<Arrival, ArrivalError> {
    core.listener.accept().await.expect("someone").finish().await
}

pub(crate) async fn session(core: &Core) -> (Connection, String) {
    match arrival(core).await.expect("a handshake") {
        Arrival::Session { connection, peer, .. } => (connection, peer.name),
        Arrival::Join(_) => panic!("joined instead"),
    }
}

pub(crate) async fn dial(address: SocketAddr, identity: &Identity) -> Result<Connection, ConnectError> {
    connect(address, identity, &quick()).await
}

/// Trusts anyone: a client that is not ours.
#[derive(Debug)]
struct TrustAnyone;

impl rustls::client::danger::ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn chain_and_key(
    identity: &Identity,
) -> (Vec<rustls::pki_types::CertificateDer<'static>>, rustls::pki_types::PrivateKeyDer<'static>) {
    let folder = tempfile::tempdir().expect("a folder");
    identity.save(folder.path()).expect("saved");
    let key = std::fs::read(folder.path().join("identity.key")).expect("read");
    (vec![identity.certificate().to_vec().into()], rustls::pki_types::PrivatePkcs8KeyDer::from(key).into())
}

pub(crate) async fn raw_connect(core: &Core, identity: Option<&Identity>) -> Connection {
    raw_connect_for(core, identity, b"headwater/1").await
}

pub(crate) async fn raw_connect_for(core: &Core, identity: Option<&Identity>, protocol: &[u8]) -> Connection {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone));
    let mut config = match identity {
        Some(identity) => {
            let (chain, key) = chain_and_key(identity);
            builder.with_client_auth_cert(chain, key).expect("they fit")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).expect("a configuration");
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    endpoint.connect_with(config, core.address, "x.invalid").expect("dialled").await.expect("connected")
}

pub(crate) fn raw_server(identity: &Identity, core: &Core) -> quinn::Endpoint {
    let (mut chain, key) = chain_and_key(identity);
    chain.push(core.authority.certificate().to_vec().into());
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they fit");
    config.alpn_protocols = vec![b"headwater/1".to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(config).expect("a configuration");
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("a server")
}
