//! Bytes by hand: frames as RFC 6455 forbids them, and clients that mean no good.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{House, PATIENCE};

/// An upgraded connection, spoken to in bytes.
struct Raw(TcpStream);

/// A frame of a client: its first byte, a mask of zeros, the payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

impl Raw {
    async fn upgraded(house: &House) -> Self {
        let mut stream = TcpStream::connect(house.handle.addr()).await.unwrap();
        let head = "GET /v1/ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            sec-websocket-protocol: everline.v1.json\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        Self(stream)
    }

    /// The peer may be gone already: what it said is looked at, not whether it listens.
    async fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// The next frame: opcode and payload; `None` at the end of the stream.
    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let first = self.0.read_u8().await.ok()?;
            let len = match self.0.read_u8().await.ok()? {
                126 => u64::from(self.0.read_u16().await.ok()?),
                127 => self.0.read_u64().await.ok()?,
                len => u64::from(len),
            };
            let mut payload = vec![0; usize::try_from(len).ok()?];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((first & 0x0f, payload))
        };
        timeout(PATIENCE, read).await.expect("a frame or the end in time")
    }

    /// The code of the close; 0 if the connection just ended.
    async fn closed(&mut self) -> u16 {
        loop {
            match self.read().await {
                Some((8, payload)) => return u16::from_be_bytes(payload[..2].try_into().unwrap()),
                Some(_) => {}
                None => return 0,
            }
        }
    }

    /// The next text.
    async fn text(&mut self) -> Value {
        loop {
            match self.read().await.expect("a text") {
                (1, payload) => return serde_json::from_slice(&payload).unwrap(),
                (8, payload) => panic!("closed: {payload:?}"),
                _ => {}
            }
        }
    }
}

/// A frame nobody takes, but answers: with what it must say back.
fn probe(id: &str) -> (Vec<u8>, Value) {
    let text = json!({"id": id, "type": "nothing", "more": "ä€𝄞"}).to_string();
    (text.into_bytes(), json!(id))
}

#[tokio::test]
async fn what_the_rfc_forbids_ends_the_connection_with_its_code() {
    let house = House::start().await;
    let text = |payload: &[u8]| frame(0x81, payload);
    let begun = |then: Vec<u8>| [frame(0x01, b"{"), then].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a reserved bit", frame(0xc1, b"{}"), 1002),
        ("a reserved opcode", frame(0x83, b"{}"), 1002),
        ("a reserved control opcode", frame(0x8b, b""), 1002),
        ("an unmasked frame", vec![0x81, 0x02, b'{', b'}'], 1002),
        ("a ping in fragments", frame(0x09, b"x"), 1002),
        ("a ping that is too long", frame(0x89, &[b'x'; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a new message inside another", begun(text(b"{}")), 1002),
        ("a binary frame", frame(0x82, b"{}"), 1003),
        ("invalid UTF-8", text(&[b'"', 0xff, b'"']), 1007),
        ("a surrogate in UTF-8", text(&[0xed, 0xa0, 0x80]), 1007),
        ("UTF-8 cut at the end", text(&[b'"', 0xe2, 0x82]), 1007),
        ("invalid UTF-8 over two fragments", [frame(0x01, &[0xe2]), frame(0x80, b"x")].concat(), 1007),
        ("a length of 2^62", vec![0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        ("one byte over the limit", text(&[b' '; 65_537]), 1009),
        ("fragments over the limit", [frame(0x01, &[b' '; 40_000]), frame(0x80, &[b' '; 40_000])].concat(), 1009),
    ];
    for (what, bytes, code) in cases {
        let mut raw = Raw::upgraded(&house).await;
        raw.write(&bytes).await;
        assert_eq!(raw.closed().await, code, "{what}");
    }
}

#[tokio::test]
async fn fragments_with_control_frames_between_are_one_message() {
    let house = House::start().await;
    let (text, id) = probe("1");
    // At every place, also inside a character.
    for at in 0..=text.len() {
        let mut raw = Raw::upgraded(&house).await;
        let parts = [frame(0x01, &text[..at]), frame(0x89, b"ping"), frame(0x80, &text[at..])];
        raw.write(&parts.concat()).await;
        let mut seen = [raw.read().await.unwrap(), raw.read().await.unwrap()];
        seen.sort();
        let [(1, answer), (10, pong)] = &seen else { panic!("cut at {at}: {seen:?}") };
        assert_eq!(pong, b"ping");
        assert_eq!(serde_json::from_slice::<Value>(answer).unwrap()["id"], id, "cut at {at}");
    }
}

#[tokio::test]
async fn one_byte_at_a_time_is_slow_and_works() {
    let house = House::start().await;
    let mut raw = Raw::upgraded(&house).await;
    let (text, id) = probe("1");
    for byte in frame(0x81, &text) {
        raw.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.text().await["id"], id);
}

#[tokio::test]
async fn a_flood_of_pings_is_answered_and_costs_nobody_else() {
    let house = House::start().await;
    let mut healthy = house.live("alice", "phone").await;
    let Raw(stream) = Raw::upgraded(&house).await;
    let (mut from, mut to) = stream.into_split();
    let writing = tokio::spawn(async move {
        let pings = frame(0x89, b"again").repeat(100);
        for _ in 0..100 {
            if to.write_all(&pings).await.is_err() {
                break;
            }
        }
        to
    });
    let pongs = async {
        let mut pong = [0; 7];
        for _ in 0..10_000 {
            from.read_exact(&mut pong).await.unwrap();
            assert_eq!(&pong, b"\x8a\x05again");
        }
    };
    timeout(PATIENCE, pongs).await.expect("all are answered");
    drop(writing.await);
    house.post("bob", "alice", 20).await;
    assert_eq!(healthy.read_to(20).await, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn sixty_four_kib_of_brackets_are_bad_json() {
    let house = House::start().await;
    let mut raw = Raw::upgraded(&house).await;
    for bracket in [b'[', b'{'] {
        raw.write(&frame(0x81, &[bracket; 65_536])).await;
        assert_eq!(raw.text().await["code"], "bad_json");
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let house = House::with(|settings| settings.upgrade_deadline = Duration::from_millis(200)).await;
    let mut stream = TcpStream::connect(house.handle.addr()).await.unwrap();
    stream.write_all(b"GET /v1/ws HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed by the server");
    assert!(ended.is_err() || !answer.starts_with(b"HTTP/1.1 101"));
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_port_goes_on() {
    let house = House::start().await;
    let chunked =
        "GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let smuggled = format!("{chunked}GET /v1/ws HTTP/1.1\r\nhost: x\r\n\r\n");
    let cases: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /v1/ws\r\n\r\n",
        b"\x00\x00\x00\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        smuggled.as_bytes(),
    ];
    for bytes in cases {
        let mut stream = TcpStream::connect(house.handle.addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("ended");
        assert!(!String::from_utf8_lossy(&answer).contains(" 101 "), "{bytes:?}");
    }
    house.live("alice", "phone").await;
}

#[tokio::test]
async fn ten_thousand_bad_tokens_are_refused_and_a_good_one_is_welcome() {
    let house = House::start().await;
    let token = house.token("alice");
    let (signed, _) = token.rsplit_once('.').unwrap();
    for round in 0..100 {
        let refused = (0..100).map(async |n| {
            let mut client = house.socket().await;
            let bad = format!("{signed}.{round}x{n}");
            client.send(json!({"type":"hello","id":"h","token":bad,"device_id":"phone"})).await;
            client.fails("invalid_token", 4503).await;
        });
        futures::future::join_all(refused).await;
    }
    house.live("alice", "phone").await;
}

#[tokio::test]
async fn readers_that_stand_still_cost_the_healthy_ones_nothing() {
    let house = House::with(|settings| settings.session.page_bytes = 4000).await;
    let mut still = Vec::new();
    for n in 0..9 {
        still.push(house.live("alice", &format!("s{n}")).await);
    }
    let mut healthy = house.live("alice", "healthy").await;
    house.post("bob", "alice", 900).await;
    assert_eq!(healthy.read_to(900).await, (1..=900).collect::<Vec<_>>());
    // And those that begin to read again lose nothing either.
    for client in &mut still {
        assert_eq!(client.read_to(900).await, (1..=900).collect::<Vec<_>>());
    }
}

/// A device that reads a byte a second: it says hello and takes what comes so slowly that nothing ever ends.
async fn crawl(house: &House, user: &str, device: &str) -> tokio::task::JoinHandle<()> {
    let mut raw = Raw::upgraded(house).await;
    let hello = json!({"type":"hello","id":"h","token":house.token(user),"device_id":device});
    raw.write(&frame(0x81, hello.to_string().as_bytes())).await;
    let (_, welcome) = raw.read().await.unwrap();
    assert!(welcome.starts_with(b"{\"type\":\"welcome\""));
    tokio::spawn(async move {
        while raw.0.read_u8().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_readers_at_a_byte_a_second_beside_a_hundred_healthy_ones() {
    const USERS: usize = 100;
    const SLOW: usize = 10;
    const MESSAGES: usize = 30;
    let house = House::with(|settings| {
        settings.session.page_bytes = 4000;
        settings.policy.max_devices = SLOW + 1;
        settings.max_connections_per_address = 0;
    })
    .await;
    let (mut crawlers, mut healthy) = (Vec::new(), Vec::new());
    for n in 0..USERS {
        let user = format!("u{n}");
        for device in 0..SLOW {
            crawlers.push(crawl(&house, &user, &format!("slow{device}")).await);
        }
        healthy.push((house.live(&user, "healthy").await, user));
    }
    let served = healthy.iter_mut().map(|(client, user)| {
        let house = &house;
        async move {
            house.post("sender", user, MESSAGES).await;
            assert_eq!(client.read_to(MESSAGES as u64).await, (1..=MESSAGES as u64).collect::<Vec<_>>());
        }
    });
    futures::future::join_all(served).await;
    crawlers.iter().for_each(tokio::task::JoinHandle::abort);
}
