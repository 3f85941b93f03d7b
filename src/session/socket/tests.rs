//! Promises of the socket: order, limits, and memory given back.

use futures::SinkExt;
use tokio::io::{DuplexStream, duplex};
use tokio_tungstenite::tungstenite::Message;

use super::*;

type Peer = WebSocketStream<DuplexStream>;

const LIMITS: SocketLimits = SocketLimits {
    max_frame_bytes: 65_536,
    write_stall: Duration::from_millis(200),
    close_grace: Duration::from_millis(200),
};

async fn pair() -> (Socket<DuplexStream>, Peer) {
    let (ours, theirs) = duplex(1024);
    let peer = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    (Socket::new(ours, Vec::new(), LIMITS).await, peer)
}

fn text(length: usize) -> Message {
    Message::Text("x".repeat(length).into())
}

#[tokio::test]
async fn frames_of_every_length_arrive_whole_and_in_order() {
    let (mut socket, mut peer) = pair().await;
    let lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 200_000];
    let write = async {
        for length in lengths {
            socket.feed(|out| out.push_str(&"y".repeat(length)));
        }
        socket.flush().await
    };
    let read = async {
        for length in lengths {
            let message = peer.next().await.expect("a frame").expect("a whole one");
            assert_eq!(message.into_text().expect("text"), "y".repeat(length));
        }
    };
    let (written, ()) = tokio::join!(write, read);
    assert!(written.is_ok());
    assert_eq!(socket.out.capacity(), 0, "an idle session holds no write buffer");
}

#[tokio::test]
async fn pongs_and_our_frames_do_not_cut_each_other() {
    let (mut socket, mut peer) = pair().await;
    for round in 0..50_usize {
        peer.send(Message::Ping(vec![1; 100].into())).await.expect("sent");
        peer.send(text(10)).await.expect("sent");
        assert_eq!(socket.read().await.expect("a text").len(), 10);
        socket.feed_text(&"z".repeat(round * 40));
        let (flushed, seen) = tokio::join!(socket.flush(), async {
            let mut seen = Vec::new();
            while seen.len() < 2 {
                seen.push(peer.next().await.expect("a frame").expect("a whole one"));
            }
            seen
        });
        assert!(flushed.is_ok());
        assert!(seen.iter().any(Message::is_pong) && seen.iter().any(Message::is_text), "{round}");
    }
}

#[tokio::test]
async fn the_codec_is_made_anew_after_a_large_frame_and_loses_nothing() {
    let (mut socket, mut peer) = pair().await;
    let sending = tokio::spawn(async move {
        // The one behind the large frame partly arrives with it.
        for length in [10, 60_000, 3000, 10, 126, 50_000] {
            peer.send(text(length)).await.expect("sent");
        }
        peer
    });
    for length in [10, 60_000, 3000, 10, 126, 50_000] {
        assert_eq!(socket.read().await.expect("a text").len(), length);
        socket.shrink().await;
    }
    let mut peer = sending.await.expect("sent all");
    assert!(!socket.swollen, "nothing is buffered after the last frame");
    peer.send(text(7)).await.expect("sent");
    assert_eq!(socket.read().await.expect("a text").len(), 7);
}

#[tokio::test]
async fn a_client_that_splits_messages_keeps_its_codec() {
    let (mut socket, mut peer) = pair().await;
    let part = |opcode, last| {
        use tokio_tungstenite::tungstenite::protocol::frame::Frame;
        Message::Frame(Frame::message(vec![b'x'; 5000], OpCode::Data(opcode), last))
    };
    let sending = async {
        peer.send(part(Data::Text, false)).await.expect("sent");
        peer.send(part(Data::Continue, true)).await.expect("sent");
        peer.send(text(5)).await.expect("sent");
    };
    let reading = async {
        assert_eq!(socket.read().await.expect("a text").len(), 10_000);
        socket.shrink().await;
        assert!(socket.swollen);
        assert_eq!(socket.read().await.expect("a text").len(), 5);
    };
    tokio::join!(sending, reading);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_ends_the_write_in_time() {
    let (mut socket, _peer) = pair().await;
    socket.feed_text(&"x".repeat(10_000));
    assert_eq!(socket.flush().await.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
}

#[tokio::test]
async fn the_reason_of_a_close_comes_behind_what_was_gathered() {
    let (mut socket, mut peer) = pair().await;
    socket.feed_text("last words");
    let closing = tokio::spawn(socket.close(4500, "protocol violation"));
    assert_eq!(peer.next().await.expect("a frame").expect("whole"), Message::Text("last words".into()));
    let Some(Ok(Message::Close(Some(close)))) = peer.next().await else { panic!("no close") };
    assert_eq!((u16::from(close.code), close.reason.as_str()), (4500, "protocol violation"));
    assert!(peer.next().await.is_none());
    closing.await.expect("closed");
}

#[tokio::test]
async fn a_close_does_not_wait_for_a_peer_that_reads_nothing() {
    let (mut socket, _peer) = pair().await;
    socket.limits.write_stall = Duration::from_secs(3600);
    socket.feed_text(&"x".repeat(10_000));
    socket.close(1012, "server restarts").await;
}
