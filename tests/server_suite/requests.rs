//! Requests through a session: order, rates, tokens while connected, logout.

use std::time::Duration;

use serde_json::{Value, json};

use everline::store::sim::Moment;

use crate::harness::House;

#[tokio::test]
async fn requests_on_one_conversation_take_effect_in_the_order_sent() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    // All at once: each needs the effect of the one before, through another lane each time.
    for n in 1..=20_u64 {
        client
            .send(json!({"type":"send","id":format!("s{n}"),"to":"bob","client_msg_id":format!("m{n}"),"body":{}}))
            .await;
        client.send(json!({"type":"history","id":format!("h{n}"),"conv_id":"d:alice:bob"})).await;
        client.send(json!({"type":"delete","id":format!("d{n}"),"conv_id":"d:alice:bob","ranges":[[n,n]]})).await;
    }
    let mut answers = std::collections::HashMap::new();
    while answers.len() < 60 {
        let frame = client.next().await;
        if let Some(id) = frame["id"].as_str() {
            answers.insert(id.to_owned(), frame);
        }
    }
    for n in 1..=20 {
        assert_eq!(answers[&format!("s{n}")]["conv_seq"], n);
        let history = &answers[&format!("h{n}")];
        let seen: Vec<&Value> = history["entries"].as_array().unwrap().iter().map(|entry| &entry["conv_seq"]).collect();
        assert_eq!(seen, [&json!(n)], "the earlier ones are deleted, this one not yet");
        assert_eq!(answers[&format!("d{n}")]["type"], "ok");
    }
}

#[tokio::test]
async fn pipelined_messages_keep_their_order() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    let mut other = house.live("bob", "phone").await;
    for n in 0..400 {
        client.send(json!({"type":"send","id":"1","to":"bob","client_msg_id":format!("m{n}"),"body":{"n":n}})).await;
    }
    let mut bodies = Vec::new();
    while bodies.len() < 400 {
        let frame = other.next_of("sync").await;
        bodies.extend(frame["entries"].as_array().unwrap().iter().map(|entry| entry["body"]["n"].as_u64().unwrap()));
        other.send(json!({"type":"ack","seq":other.seq})).await;
    }
    assert_eq!(bodies, (0..400).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_engines_refusals_become_errors() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    let error = client.ask(json!({"type":"history","conv_id":"g:none"})).await;
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("not_found")));
    let error = client.ask(json!({"type":"send","to":"alice","client_msg_id":"m","body":{}})).await;
    assert_eq!((&error["code"], &error["field"]), (&json!("invalid_field"), &json!("to")));
}

#[tokio::test]
async fn a_rate_exceeded_is_told_with_when_to_come_back() {
    let house = House::with(|settings| settings.session.rate_messages = 5).await;
    let mut client = house.live("alice", "phone").await;
    let mut codes = Vec::new();
    for n in 0..16 {
        let answer = client.ask(json!({"type":"send","to":"bob","client_msg_id":format!("m{n}"),"body":{}})).await;
        codes.push(answer["type"].as_str().unwrap().to_owned());
        if n == 15 {
            assert_eq!((&answer["code"], &answer["retryable"]), (&json!("rate_limited"), &json!(true)));
            let wait = answer["retry_after_ms"].as_u64().unwrap();
            assert!((1..=200).contains(&wait), "{wait}");
        }
    }
    assert_eq!(codes.iter().filter(|kind| *kind == "sent").count(), 15, "bursts of three times the rate");
    // A rate of its own: other requests go on, and so does another device.
    assert_eq!(client.ask(json!({"type":"devices"})).await["type"], "devices");
    let mut tablet = house.live("alice", "tablet").await;
    let sent = tablet.ask(json!({"type":"send","to":"bob","client_msg_id":"t","body":{}})).await;
    assert_eq!(sent["type"], "sent");
}

#[tokio::test]
async fn a_reconnect_does_not_fill_the_rate_again() {
    let house = House::with(|settings| settings.session.rate_requests = 1).await;
    let mut client = house.live("alice", "phone").await;
    for _ in 0..3 {
        assert_eq!(client.ask(json!({"type":"devices"})).await["type"], "devices");
    }
    assert_eq!(client.ask(json!({"type":"devices"})).await["code"], "rate_limited");
    let mut again = house.live("alice", "phone").await;
    assert_eq!(again.ask(json!({"type":"devices"})).await["code"], "rate_limited");
}

#[tokio::test]
async fn far_beyond_the_rate_the_connection_ends() {
    let house = House::with(|settings| settings.session.rate_requests = 1).await;
    let mut client = house.live("alice", "phone").await;
    for _ in 0..60 {
        client.send(json!({"type":"typing","conv_id":"g:1"})).await;
    }
    let (frames, code) = client.rest().await;
    assert_eq!(frames.last().unwrap()["code"], "rate_limited");
    assert_eq!(code, 4429);
}

#[tokio::test]
async fn a_token_that_expires_while_connected_ends_the_connection() {
    let house = House::with(|settings| settings.session.heartbeat = Duration::from_millis(400)).await;
    let mut client = house.live("alice", "phone").await;
    house.clock.jump(3_600_000 + 4_000);
    assert_eq!(client.ask(json!({"type":"devices"})).await["type"], "devices", "there is leeway");
    house.clock.jump(60_000);
    let error = client.fails("token_expired", 4401).await;
    assert_eq!(error["id"], Value::Null);
}

#[tokio::test]
async fn auth_renews_the_token_for_the_same_user_only() {
    let house = House::with(|settings| settings.session.heartbeat = Duration::from_millis(400)).await;
    let mut client = house.live("alice", "phone").await;
    house.clock.jump(3_500_000);
    let answer = client.ask(json!({"type":"auth","token":house.token("alice")})).await;
    assert_eq!(answer["type"], "ok");
    house.clock.jump(200_000);
    client.next_of("ping").await;
    assert_eq!(client.ask(json!({"type":"devices"})).await["type"], "devices");

    for token in
        [house.token("bob"), "nonsense".to_owned(), house.token_for("alice", Some("x"), Duration::from_secs(9))]
    {
        let mut client = house.live("alice", "phone").await;
        client.send(json!({"type":"auth","id":"a","token":token})).await;
        assert_eq!(client.fails("invalid_token", 4503).await["id"], "a");
    }
    let mut client = house.live("alice", "phone").await;
    let token = house.token_for("alice", None, Duration::from_secs(1));
    house.clock.jump(60_000);
    client.send(json!({"type":"auth","id":"a","token":token})).await;
    client.fails("token_expired", 4401).await;
}

#[tokio::test]
async fn logout_forgets_the_device_and_closes_its_socket() {
    let house = House::start().await;
    let mut phone = house.live("alice", "phone").await;
    let mut tablet = house.live("alice", "tablet").await;
    assert_eq!(phone.ask(json!({"type":"logout","device_id":"tablet"})).await["type"], "ok");
    tablet.fails("revoked", 4504).await;
    phone.send(json!({"type":"logout","id":"me","device_id":"phone"})).await;
    let (frames, code) = phone.rest().await;
    let kinds: Vec<&Value> =
        frames.iter().filter(|frame| frame["type"] != "sync").map(|frame| &frame["type"]).collect();
    assert_eq!((kinds, code), (vec![&json!("ok"), &json!("error")], 4504), "answered first, then closed");
}

#[tokio::test]
async fn a_client_that_asks_for_too_much_waits_and_is_answered_in_the_end() {
    let house = House::with(|settings| settings.session.requests_in_flight = 4).await;
    let mut client = house.live("alice", "phone").await;
    house.store.pause(true);
    for n in 0..50 {
        let message = json!({"type":"send","id":format!("{n}"),"to":"bob","client_msg_id":format!("m{n}"),"body":{}});
        client.send(message).await;
    }
    house.store.pause(false);
    let mut sent = Vec::new();
    while sent.len() < 50 {
        sent.push(client.next_of("sent").await["conv_seq"].as_u64().unwrap());
    }
    sent.sort_unstable();
    assert_eq!(sent, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_begun_is_answered_before_the_goodbye() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    let hold = house.store.hold_next_commit(Moment::Before);
    client.send(json!({"type":"send","id":"1","to":"bob","client_msg_id":"m","body":{}})).await;
    hold.reached().await;
    let (_, (frames, code)) = tokio::join!(house.handle.stop(), async {
        hold.release();
        client.rest().await
    });
    assert!(frames.iter().any(|frame| frame["type"] == "sent"), "{frames:?}");
    assert_eq!(code, 1012);
}

#[tokio::test]
async fn a_store_out_of_reach_sends_a_new_device_away_until_later() {
    let house = House::start().await;
    house.store.cut(true);
    let mut client = house.socket().await;
    client.send(json!({"type":"hello","id":"h","token":house.token("alice"),"device_id":"phone"})).await;
    let error = client.fails("unavailable", 1013).await;
    assert_eq!(error["retryable"], true);
}
