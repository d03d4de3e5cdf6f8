//! TLS as Headwater uses it: version 1.3, Ed25519 on both sides, one authority, no dates, no resumption.
//!
//! Nothing of the public web's rules applies: names in certificates are not host names, there are no chains, and a device
//! without a clock must still connect. What is checked is in [`Certificate`]; here it is hung into rustls.

use std::sync::{Arc, OnceLock};

use headwater_protocol::trust::{Certificate, CertificateError, CertificateUse, Fingerprint};
use headwater_protocol::wire::{ALPN_JOIN, ALPN_SESSION};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
};

use crate::identity::Identity;

/// The server name that clients send. It means nothing: cores are recognised by their authority.
pub(super) const SERVER_NAME: &str = "core.headwater.invalid";

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The server's side, for both protocols.
pub(super) fn server_config(identity: &Identity) -> Result<QuicServerConfig, Error> {
    let provider = provider();
    let leaf = CertificateDer::from(identity.certificate().to_vec());
    let authority = CertificateDer::from(identity.authority_certificate().to_vec());
    let key = private_key(identity);
    let session = Arc::new(CertifiedKey::from_der(vec![leaf.clone()], key.clone_key(), &provider)?);
    let join = Arc::new(CertifiedKey::from_der(vec![leaf, authority], key, &provider)?);
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(TLS13)?
        .with_client_cert_verifier(Arc::new(AnyKeyHolder { provider }))
        .with_cert_resolver(Arc::new(ByProtocol { session, join }));
    config.alpn_protocols = vec![ALPN_SESSION.to_vec(), ALPN_JOIN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(|_| Error::General("no initial cipher suite".into()))
}

/// A device's side of a session, and where to look why the server was not trusted.
pub(super) fn session_config(identity: &Identity) -> Result<(QuicClientConfig, Verdict), Error> {
    let provider = provider();
    let verdict = Verdict::default();
    let verifier = PinnedAuthority {
        provider: provider.clone(),
        authority: identity.authority().clone(),
        verdict: verdict.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(TLS13)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![CertificateDer::from(identity.certificate().to_vec())], private_key(identity))?;
    config.alpn_protocols = vec![ALPN_SESSION.to_vec()];
    finish_client(config).map(|config| (config, verdict))
}

/// The client's side of joining, which knows only the authority's fingerprint.
pub(super) fn join_config(authority: Fingerprint) -> Result<(QuicClientConfig, Verdict), Error> {
    let provider = provider();
    let verdict = Verdict::default();
    let verifier = FingerprintedAuthority { provider: provider.clone(), authority, verdict: verdict.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(TLS13)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    finish_client(config).map(|config| (config, verdict))
}

/// Why a server was not trusted; TLS alone would say only `bad certificate`.
pub(super) type Verdict = Arc<OnceLock<CertificateError>>;

fn finish_client(mut config: ClientConfig) -> Result<QuicClientConfig, Error> {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    QuicClientConfig::try_from(config).map_err(|_| Error::General("no initial cipher suite".into()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn private_key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(identity.key().pkcs8().to_vec()).into()
}

/// Sessions get the core's certificate; those who join get its authority's too, which they know only by fingerprint.
#[derive(Debug)]
struct ByProtocol {
    session: Arc<CertifiedKey>,
    join: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByProtocol {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let joins = hello.alpn()?.any(|protocol| protocol == ALPN_JOIN);
        Some(if joins { self.join.clone() } else { self.session.clone() })
    }
}

/// What both kinds of verifiers say of signatures: TLS 1.3 and Ed25519, nothing else.
macro_rules! ed25519_in_tls13_only {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    };
}

/// Lets in whoever holds the key of the certificate that it shows. Whether it is one of ours is asked right after the
/// handshake, in `listen`, where a refusal can be a sentence.
#[derive(Debug)]
struct AnyKeyHolder {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyKeyHolder {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Certificate::parse(leaf).map_err(|_| Error::InvalidCertificate(TlsCertificateError::BadEncoding))?;
        Ok(ClientCertVerified::assertion())
    }

    ed25519_in_tls13_only!();
}

/// Trusts cores of one authority, whose certificate is known.
#[derive(Debug)]
struct PinnedAuthority {
    provider: Arc<CryptoProvider>,
    authority: Certificate,
    verdict: Verdict,
}

/// Trusts cores of one authority, of which only the fingerprint is known; the server sends the certificate.
#[derive(Debug)]
struct FingerprintedAuthority {
    provider: Arc<CryptoProvider>,
    authority: Fingerprint,
    verdict: Verdict,
}

impl FingerprintedAuthority {
    fn check(&self, leaf: &[u8], others: &[CertificateDer<'_>]) -> Result<(), CertificateError> {
        let pinned = others.iter().find(|other| Fingerprint::of(other) == self.authority);
        let pinned = pinned.ok_or(CertificateError::Fingerprint { wanted: self.authority })?;
        let authority = Certificate::parse_authority(pinned)?;
        Certificate::parse_issued(leaf, &authority, CertificateUse::Core).map(|_| ())
    }
}

fn judged(result: Result<(), CertificateError>, verdict: &Verdict) -> Result<ServerCertVerified, Error> {
    match result {
        Ok(()) => Ok(ServerCertVerified::assertion()),
        Err(error) => {
            // One connection attempt is judged once; were it twice, the first reason stands.
            let _ = verdict.set(error);
            Err(Error::InvalidCertificate(TlsCertificateError::UnknownIssuer))
        }
    }
}

macro_rules! server_verifier {
    ($name:ident, |$this:ident, $leaf:ident, $others:ident| $check:expr) => {
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                $leaf: &CertificateDer<'_>,
                $others: &[CertificateDer<'_>],
                _name: &ServerName<'_>,
                _ocsp: &[u8],
                _now: UnixTime,
            ) -> Result<ServerCertVerified, Error> {
                let $this = self;
                judged($check, &self.verdict)
            }

            ed25519_in_tls13_only!();
        }
    };
}

server_verifier!(PinnedAuthority, |this, leaf, _others| Certificate::parse_issued(
    leaf,
    &this.authority,
    CertificateUse::Core
)
.map(|_| ()));
server_verifier!(FingerprintedAuthority, |this, leaf, others| this.check(leaf, others));
