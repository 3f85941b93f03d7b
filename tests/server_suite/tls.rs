//! TLS on the main port.

use std::sync::Arc;

use everline::config::TlsFiles;
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{House, PATIENCE, settings};

fn files() -> TlsFiles {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server_suite/testdata");
    TlsFiles { cert: format!("{dir}/cert.pem").into(), key: format!("{dir}/key.pem").into() }
}

fn connector() -> TlsConnector {
    let pem = std::fs::read(files().cert).unwrap();
    let mut roots = RootCertStore::empty();
    for cert in rustls_pemfile::certs(&mut pem.as_slice()) {
        roots.add(cert.unwrap()).unwrap();
    }
    TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

#[tokio::test]
async fn a_session_runs_over_tls_pages_included() {
    let house = House::with(|settings| settings.tls = Some(files())).await;
    let plain = TcpStream::connect(house.handle.addr()).await.unwrap();
    let stream = connector().connect(ServerName::try_from("localhost").unwrap(), plain).await.unwrap();
    let (mut ws, _) = tokio_tungstenite::client_async(house.request(&[]), stream).await.unwrap();
    let hello = json!({"type":"hello","id":"1","token":house.token("alice"),"device_id":"phone"});
    ws.send(Message::Text(hello.to_string().into())).await.unwrap();
    house.post("bob", "alice", 400).await;
    let mut to = 0;
    while to < 400 {
        let message = timeout(PATIENCE, ws.next()).await.unwrap().unwrap().unwrap();
        let frame: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        to = frame["to_seq"].as_u64().unwrap_or(to);
    }
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_is_dropped() {
    let house = House::with(|settings| settings.tls = Some(files())).await;
    assert!(house.socket_with(&[]).await.is_err());
}

#[tokio::test]
async fn tls_files_that_cannot_be_used_are_refused_at_the_start() {
    let swapped = TlsFiles { cert: files().key, key: files().cert };
    let mut settings = settings();
    settings.tls = Some(swapped);
    let error = House::try_start(&settings).await.err().unwrap().to_string();
    assert!(error.contains("key.pem: holds no certificate"), "{error}");
}
