//! Frames that cannot be taken, and what they lead to.

use futures::SinkExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::House;

#[tokio::test]
async fn unreadable_json_is_an_error_and_the_third_time_the_end() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
    for text in ["not json", &deep] {
        client.send_text(text).await;
        let error = client.next().await;
        assert_eq!((&error["code"], &error["id"]), (&json!("bad_json"), &Value::Null));
    }
    client.send_text("[]").await;
    client.fails("bad_json", 4500).await;
    let mut early = house.socket().await;
    for _ in 0..3 {
        early.send_text("{").await;
    }
    early.fails("bad_json", 4500).await;
}

#[tokio::test]
async fn unknown_types_and_wrong_fields_are_errors_and_the_connection_goes_on() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    let cases = [
        (json!({"id":"1","type":"dance"}), "unknown_type", Value::Null, json!("1")),
        (json!({"id":"2"}), "unknown_type", Value::Null, json!("2")),
        (json!({"id":"3","type":"recall","conv_id":"g:1"}), "invalid_field", json!("target"), json!("3")),
        (
            json!({"id":"4","type":"delete","conv_id":"g:1","ranges":[[5,1]]}),
            "invalid_field",
            json!("ranges"),
            json!("4"),
        ),
        (json!({"type":"devices"}), "invalid_field", json!("id"), Value::Null),
        (json!({"id":"5","type":"presence","users":[]}), "invalid_field", json!("users"), json!("5")),
        (json!({"type":"typing"}), "invalid_field", json!("conv_id"), Value::Null),
    ];
    for (frame, code, field, id) in cases {
        client.send(frame.clone()).await;
        let error = client.next().await;
        assert_eq!((&error["code"], &error["field"], &error["id"]), (&json!(code), &field, &id), "{frame}");
    }
    let body = json!({"text":"x".repeat(33_000)});
    let error = client.ask(json!({"type":"send","to":"bob","client_msg_id":"m","body":body})).await;
    assert_eq!((&error["code"], &error["field"]), (&json!("too_large"), &json!("body")));
    assert_eq!(client.ask(json!({"type":"devices"})).await["type"], "devices");
}

#[tokio::test]
async fn binary_frames_invalid_utf8_and_large_frames_have_their_close_codes() {
    let house = House::start().await;
    let mut binary = house.live("alice", "one").await;
    binary.ws.send(Message::Binary(vec![1, 2, 3].into())).await.unwrap();
    assert_eq!(binary.rest().await.1, 1003);

    let mut utf8 = house.live("alice", "two").await;
    // A text frame of one byte that is no UTF-8, with a mask of zeros.
    utf8.ws.get_mut().write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff]).await.unwrap();
    assert_eq!(utf8.rest().await.1, 1007);

    let mut large = house.live("alice", "three").await;
    let fits = format!("{{\"id\":\"1\",\"type\":\"x\",\"y\":\"{}\"}}", "y".repeat(65_536 - 28));
    assert_eq!(fits.len(), 65_536);
    large.send_text(&fits).await;
    assert_eq!(large.next().await["code"], "unknown_type");
    large.send_text(&format!("{fits} ")).await;
    assert_eq!(large.rest().await.1, 1009);
}

#[tokio::test]
async fn an_ack_above_what_was_sent_ends_the_connection_and_a_lower_one_does_not() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    house.post("bob", "alice", 5).await;
    client.read_to(5).await;
    for seq in [5, 0, 3, 5] {
        client.send(json!({"type":"ack","seq":seq})).await;
    }
    let devices = client.ask(json!({"type":"devices"})).await;
    assert_eq!(devices["devices"][0]["acked_seq"], 5);
    client.send(json!({"type":"ack","seq":6})).await;
    client.fails("ack_ahead", 4500).await;
}

#[tokio::test]
async fn a_pong_above_what_was_sent_is_judged_like_an_ack() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    client.send(json!({"type":"pong","seq":1})).await;
    client.fails("ack_ahead", 4500).await;
}
