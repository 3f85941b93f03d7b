//! HTTP on the port: the upgrade and what else is there.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;

use crate::harness::{House, PATIENCE};

/// The status an upgrade with these headers gets; 101 when it worked.
async fn status(house: &House, headers: &[(&str, &str)]) -> u16 {
    match house.socket_with(headers).await {
        Ok(_) => 101,
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
    }
}

/// A request by hand; everything that came back.
async fn get(addr: std::net::SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{head}\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn the_subprotocol_must_be_ours_and_is_echoed() {
    let house = House::start().await;
    assert_eq!(status(&house, &[]).await, 101);
    assert_eq!(status(&house, &[("sec-websocket-protocol", "")]).await, 400);
    assert_eq!(status(&house, &[("sec-websocket-protocol", "everline.v2.json")]).await, 400);
    // tungstenite's client checks the echo against what it asked for.
    assert_eq!(status(&house, &[("sec-websocket-protocol", "other, everline.v1.json")]).await, 101);
}

#[tokio::test]
async fn an_origin_is_checked_and_none_is_fine() {
    let house = House::start().await;
    let own = format!("http://{}", house.handle.addr());
    assert_eq!(status(&house, &[("origin", &own)]).await, 101);
    assert_eq!(status(&house, &[("origin", "https://evil.example")]).await, 403);
    assert_eq!(status(&house, &[("origin", "null")]).await, 403);

    let listed = House::with(|settings| settings.allow_origin = vec!["https://app.example".to_owned()]).await;
    assert_eq!(status(&listed, &[("origin", "https://APP.example")]).await, 101);
    assert_eq!(status(&listed, &[("origin", "https://app.example.evil")]).await, 403);
    assert_eq!(status(&listed, &[]).await, 101);
}

#[tokio::test]
async fn what_is_not_a_websocket_of_version_13_is_told_so() {
    let house = House::start().await;
    let answer = get(house.handle.addr(), "GET /v1/ws HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 426") && answer.contains("sec-websocket-version: 13"), "{answer}");
    let upgrade = "GET /v1/ws HTTP/1.1\r\nupgrade: websocket\r\nsec-websocket-protocol: everline.v1.json";
    let version = format!("{upgrade}\r\nconnection: upgrade\r\nsec-websocket-version: 8");
    assert!(get(house.handle.addr(), &version).await.starts_with("HTTP/1.1 426"));
    let key = format!("{upgrade}\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: short");
    assert!(get(house.handle.addr(), &key).await.starts_with("HTTP/1.1 400"));
    assert!(get(house.handle.addr(), "POST /v1/ws HTTP/1.1").await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn health_readiness_and_the_page_are_served() {
    let house = House::start().await;
    assert!(get(house.handle.addr(), "GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    assert!(get(house.handle.addr(), "GET /readyz HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    assert!(get(house.handle.addr(), "GET / HTTP/1.1").await.contains("<title>Everline</title>"));
    house.store.cut(true);
    assert!(get(house.handle.addr(), "GET /readyz HTTP/1.1").await.starts_with("HTTP/1.1 503"));
    assert!(get(house.handle.addr(), "GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn metrics_are_for_this_machine_or_a_listener_of_their_own() {
    let house = House::start().await;
    let _client = house.live("alice", "phone").await;
    let metrics = get(house.handle.addr(), "GET /metrics HTTP/1.1").await;
    for name in ["everline_connections", "everline_sessions", "everline_frames_in_total{type=\"hello\"}"] {
        assert!(metrics.contains(name), "{name}");
    }
    let forwarded = get(house.handle.addr(), "GET /metrics HTTP/1.1\r\nx-forwarded-for: 192.0.2.1").await;
    assert!(forwarded.starts_with("HTTP/1.1 403"), "{forwarded}");

    let apart = House::with(|settings| settings.metrics_listen = Some("127.0.0.1:0".to_owned())).await;
    assert!(get(apart.handle.addr(), "GET /metrics HTTP/1.1").await.starts_with("HTTP/1.1 404"));
    let own = apart.handle.metrics_addr().unwrap();
    assert!(get(own, "GET /metrics HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    assert!(get(own, "GET /v1/ws HTTP/1.1").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_places_are_given_back() {
    let house = House::with(|settings| settings.max_connections = 2).await;
    let mut first = house.live("alice", "phone").await;
    let _second = house.live("bob", "phone").await;
    assert_eq!(status(&house, &[]).await, 503);
    first.ws.close(None).await.unwrap();
    assert_eq!(first.rest().await.1, 0);
    // The place is given back a moment after the peer has seen the end.
    let again = async { while status(&house, &[]).await == 503 {} };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn connections_of_one_address_are_limited() {
    let house = House::with(|settings| settings.max_connections_per_address = 1).await;
    let _first = house.live("alice", "phone").await;
    assert_eq!(status(&house, &[]).await, 503);
}

#[tokio::test]
async fn an_address_that_connects_too_fast_is_refused() {
    let house = House::with(|settings| settings.rate_connects = 1).await;
    for _ in 0..3 {
        assert_eq!(status(&house, &[]).await, 101);
    }
    assert_eq!(status(&house, &[]).await, 429);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_address_it_names_counts() {
    let house = House::with(|settings| {
        settings.rate_connects = 1;
        settings.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    for _ in 0..3 {
        assert_eq!(status(&house, &[("x-forwarded-for", "198.51.100.1")]).await, 101);
    }
    assert_eq!(status(&house, &[("x-forwarded-for", "198.51.100.1")]).await, 429);
    assert_eq!(status(&house, &[("x-forwarded-for", "198.51.100.2")]).await, 101);
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_cut_off() {
    let house = House::with(|settings| settings.upgrade_deadline = Duration::from_millis(100)).await;
    for begun in ["", "GET /v1/ws HTTP/1.1\r\nhost: a"] {
        let mut stream = TcpStream::connect(house.handle.addr()).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_sent_right_behind_the_upgrade_is_not_lost() {
    let house = House::start().await;
    let hello = json!({"type":"hello","id":"1","token":house.token("alice"),"device_id":"phone"}).to_string();
    let mut bytes = format!(
        "GET /v1/ws HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: everline.v1.json\r\n\r\n",
        house.handle.addr()
    )
    .into_bytes();
    // A text frame with a mask of zeros.
    bytes.extend_from_slice(&[0x81, 0xfe]);
    bytes.extend_from_slice(&u16::try_from(hello.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(hello.as_bytes());
    let mut stream = TcpStream::connect(house.handle.addr()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let (mut answer, mut part) = (String::new(), [0; 4096]);
    while !answer.contains("\"type\":\"welcome\"") {
        let read = timeout(PATIENCE, stream.read(&mut part)).await.unwrap().unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&part[..read]));
    }
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
}
