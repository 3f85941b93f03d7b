//! Cursors of every kind against a small engine: what a device says after `hello`, a frame on each line, and what
//! it then may be told (`model`). Lines that are no frame, or one that changes something, are passed over; `typing`
//! stands for another message of the other side.
//!
//! The world is made anew for each input. Nothing waits for time: the store answers at once, and after each line
//! everything that can run has run.
#![no_main]
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "a panic is what is looked for")]

mod model;
mod world;

use everline::protocol::{ClientFrame, Envelope, Request, ServerFrame};
use everline::session;
use futures::{FutureExt, SinkExt, StreamExt};
use libfuzzer_sys::fuzz_target;
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use model::Model;
use world::World;

const FRESH: &str = r#"{"type":"hello","id":"h","device_id":"phone"}"#;
/// Lines of one input; more only take longer.
const MOST: usize = 48;
/// Every task that can run has its turn in each of them.
const TURNS: usize = 60;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let says = |line| ClientFrame::parse(line).ok().filter(is_asked_here).map(|frame| (line, frame));
    let mut lines: Vec<(&str, ClientFrame)> = text.lines().filter_map(says).take(MOST).collect();
    if !matches!(lines.first(), Some((_, ClientFrame::Hello(_)))) {
        lines.insert(0, says(FRESH).unwrap());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(play(lines));
});

fn is_asked_here(frame: &ClientFrame) -> bool {
    let ClientFrame::Request(Envelope { request, .. }) = frame else { return true };
    matches!(request, Request::Sync { .. } | Request::History { .. } | Request::Changes { .. })
}

async fn play(lines: Vec<(&str, ClientFrame)>) {
    let mut world = World::new().await;
    let (near, far) = tokio::io::duplex(1 << 20);
    tokio::spawn(session::serve(world.shared.clone(), far, Vec::new(), Some(world.token.clone())));
    let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let mut model = Model::default();
    for (line, frame) in lines {
        if let ClientFrame::Typing { .. } = frame {
            world.bob_writes().await;
        } else {
            model.says(frame);
            socket.send(Message::text(line)).await.unwrap();
        }
        settle(&mut socket, &mut model, &world).await;
        if model.over {
            return;
        }
    }
    // However it went: by acknowledging it comes to the head.
    while model.position < world.facts.head() {
        let before = model.position;
        let ack = ClientFrame::Ack { seq: before };
        socket.send(Message::text(ack.to_json())).await.unwrap();
        model.says(ack);
        settle(&mut socket, &mut model, &world).await;
        assert!(model.position > before, "stands at {before}, the head is {}", world.facts.head());
    }
}

/// Lets everything run, and judges what was told.
async fn settle(socket: &mut WebSocketStream<DuplexStream>, model: &mut Model, world: &World) {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
    while let Some(message) = socket.next().now_or_never() {
        match message {
            Some(Ok(Message::Text(text))) => model.hears(&world.facts, ServerFrame::parse(&text).unwrap()),
            Some(Ok(Message::Close(_))) => assert!(model.over, "closed"),
            None | Some(Err(_)) if model.over => break,
            other => panic!("{other:?}"),
        }
    }
    model.settled();
}
