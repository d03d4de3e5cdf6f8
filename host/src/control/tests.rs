//! The local socket between real tasks, in real folders.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::error::{CodedError, codes};

struct Echo;

impl ControlHandler for Echo {
    fn handle(&self, request: Value, reply: ReplySender) -> BoxFuture<'_, Result<Value, CodedError>> {
        Box::pin(async move {
            if request == json!("fail") {
                return Err(CodedError::new(&codes::NOT_FOUND, "no `x`").with_source(std::io::Error::other("why")));
            }
            if request == json!("too much") {
                return Ok(Value::String("x".repeat(FRAME_BYTES_MAX)));
            }
            for step in 0..200 {
                let _ = reply.progress(json!({ "step": step })).await;
            }
            Ok(request)
        })
    }
}

fn serve(folder: &Path) -> tokio::task::JoinHandle<()> {
    let server = ControlServer::bind(folder).unwrap();
    tokio::spawn(async move { server.serve(Arc::new(Echo)).await })
}

#[tokio::test]
async fn answers_with_progress_before() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let mut client = ControlClient::connect(folder.path()).await.unwrap();
    for _ in 0..2 {
        let mut steps = 0;
        let answer = client.call_with_progress(&json!({"a": 1}), |_| steps += 1).await.unwrap();
        assert_eq!((answer, steps), (json!({"a": 1}), 200));
    }
    let error = client.call(&json!("fail")).await.unwrap_err();
    assert!(error.is(&codes::NOT_FOUND));
    assert_eq!(error.message, "no `x`: why");
    let mode = std::fs::metadata(folder.path().join(SOCKET_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    server.abort();
    let _ = server.await;
    let error = ControlClient::connect(folder.path()).await.unwrap_err();
    assert!(error.is(&codes::DAEMON_NOT_RUNNING), "{error}");
}

#[tokio::test]
async fn deep_folders_and_stale_sockets_are_no_hindrance() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let error = ControlClient::connect(&deep).await.unwrap_err();
    assert!(error.is(&codes::DAEMON_NOT_RUNNING), "{error}");
    std::fs::write(deep.join(SOCKET_FILE), b"stale").unwrap();
    let server = serve(&deep);
    let mut client = ControlClient::connect(&deep).await.unwrap();
    assert_eq!(client.call(&json!(7)).await.unwrap(), json!(7));
    server.abort();
}

#[tokio::test]
async fn garbage_gets_an_answer_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x03\0\0\0{{{", b"\x10\0\0\0ab"] {
        let mut stream = tokio::net::UnixStream::connect(folder.path().join(SOCKET_FILE)).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        if let Ok(Some(reply)) = frame::read::<Reply>(&mut stream).await {
            assert!(matches!(reply, Reply::Failed(error) if error.is(&codes::BAD_FRAME)));
        }
    }
    let mut client = ControlClient::connect(folder.path()).await.unwrap();
    assert_eq!(client.call(&json!(7)).await.unwrap(), json!(7));
    server.abort();
}

#[tokio::test]
async fn an_answer_over_the_limit_is_said_and_the_connection_lives() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let mut client = ControlClient::connect(folder.path()).await.unwrap();
    let error = client.call(&json!("too much")).await.unwrap_err();
    assert!(error.is(&codes::BAD_FRAME) && error.message.contains("over the limit"), "{error}");
    assert_eq!(client.call(&json!(7)).await.unwrap(), json!(7));
    server.abort();
}
