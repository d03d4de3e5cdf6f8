//! One stream between two bare quinn endpoints with quinn's default configuration: what a transfer is measured against.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use quinn::{ClientConfig, Endpoint, ServerConfig};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};

/// Name in the certificate of the throw-away server.
const NAME: &str = "peer.invalid";
const READ_BYTES: usize = 256 << 10;

/// A server on a free port of loopback, and a configuration that trusts it.
pub(crate) fn server() -> anyhow::Result<(Endpoint, SocketAddr, ClientConfig)> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::with_single_cert(vec![cert.der().clone()], key.into())?;
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let address = endpoint.local_addr()?;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone())?;
    Ok((endpoint, address, ClientConfig::with_root_certificates(Arc::new(roots))?))
}

/// A client endpoint that uses `config`.
pub(crate) fn client(config: ClientConfig) -> anyhow::Result<Endpoint> {
    let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

/// Connects `client` to the server.
pub(crate) async fn connect(client: &Endpoint, address: SocketAddr) -> anyhow::Result<quinn::Connection> {
    Ok(client.connect(address, NAME)?.await?)
}

/// Sends `file`'s bytes, which are in memory before the clock starts, until the last one has been read on the other side.
pub(crate) fn measure(file: &Path) -> anyhow::Result<Value> {
    let bytes = std::fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (endpoint, address, config) = server()?;
        let receiver = tokio::spawn(async move {
            let connection = endpoint.accept().await.context("the endpoint is closed")?.await?;
            let mut stream = connection.accept_uni().await?;
            let mut received = 0usize;
            while let Some(chunk) = stream.read_chunk(READ_BYTES, true).await? {
                received += chunk.bytes.len();
            }
            anyhow::Ok((received, connection))
        });
        let client = client(config)?;
        let connection = connect(&client, address).await?;
        let total = bytes.len();
        let start = Instant::now();
        let mut stream = connection.open_uni().await?;
        stream.write_all(&bytes).await?;
        stream.finish()?;
        let (received, _receiving) = receiver.await??;
        let seconds = start.elapsed().as_secs_f64();
        anyhow::ensure!(received == total, "{received} of {total} bytes arrived");
        let udp = connection.stats().udp_tx;
        Ok(json!({ "bytes": received, "seconds": seconds, "wire_bytes": udp.bytes, "datagrams": udp.datagrams }))
    })
}
