//! The server API from outside: real HTTP, each route, each bad input.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a failure is a panic")]
#![allow(dead_code, unreachable_pub, reason = "the harness is shared")]

#[path = "server_suite/harness.rs"]
mod harness;

use everline::config::Secret;
use everline::store::{Store, TimelineId};
use harness::{Client, House, PATIENCE};
use reqwest::Method;
use serde_json::{Value, json};

const KEY: &str = "the key of the tests";

/// A server with an API, and whoever calls it.
struct Api {
    house: House,
    http: reqwest::Client,
}

impl Api {
    async fn start() -> Self {
        let keys = vec![Secret::new("another key"), Secret::new(KEY)];
        let house = House::with(|settings| settings.api_keys = keys).await;
        Self { house, http: reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap() }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}/v1/api/{path}", self.house.handle.addr());
        self.http.request(method, url).header("authorization", format!("Bearer {KEY}"))
    }

    /// Status and content of an answer.
    async fn send(request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn call(&self, method: Method, path: &str, content: Value) -> (u16, Value) {
        let mut request = self.request(method, path);
        if !content.is_null() {
            request = request.body(content.to_string());
        }
        Self::send(request).await
    }

    async fn ok(&self, method: Method, path: &str, content: Value) -> Value {
        let (status, answer) = self.call(method.clone(), path, content).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    /// Refused in the protocol's form, with this status, code and field.
    async fn refused(&self, method: Method, path: &str, content: Value, status: u16, code: &str, field: Value) {
        let (got, answer) = self.call(method.clone(), path, content.clone()).await;
        let said = (got, answer["code"].as_str().unwrap_or_default(), answer["field"].clone());
        assert_eq!(said, (status, code, field), "{method} {path} {content}: {answer}");
        is_error(&answer);
    }

    async fn group(&self, owner: &str, members: &[&str]) -> String {
        let content = json!({"owner": owner, "members": members, "title": "Town"});
        let made = self.ok(Method::POST, "conversations", content).await;
        made["conv_id"].as_str().unwrap().to_owned()
    }

    async fn entry(client: &mut Client, op: &str) -> Value {
        loop {
            let frame = client.next_of("sync").await;
            let entries = frame["entries"].as_array().unwrap();
            if let Some(entry) = entries.iter().find(|entry| entry["op"] == op) {
                return entry.clone();
            }
        }
    }
}

/// Exactly the fields of an error frame.
fn is_error(answer: &Value) {
    let object = answer.as_object().unwrap();
    let mut names: Vec<_> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["code", "field", "id", "message", "retry_after_ms", "retryable", "type"]);
    assert_eq!((&answer["type"], &answer["id"]), (&json!("error"), &Value::Null));
}

#[tokio::test]
async fn without_a_key_configured_there_is_no_api() {
    let house = House::start().await;
    for path in ["conversations/g:1", "openapi.json", "anything"] {
        let url = format!("http://{}/v1/api/{path}", house.handle.addr());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http.get(url).header("authorization", format!("Bearer {KEY}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 404, "{path}");
    }
}

#[tokio::test]
async fn only_who_has_a_key_is_let_in() {
    let api = Api::start().await;
    let url = format!("http://{}/v1/api/users/a/devices", api.house.handle.addr());
    for header in ["", "Bearer", "Bearer wrong", "Basic the key of the tests", "Bearer the key of the test"] {
        let (status, answer) = Api::send(api.http.get(&url).header("authorization", header)).await;
        assert_eq!((status, &answer["code"]), (401, &json!("invalid_token")), "{header}");
        is_error(&answer);
    }
    for header in ["Bearer another key", "bearer the key of the tests"] {
        assert_eq!(Api::send(api.http.get(&url).header("authorization", header)).await.0, 200, "{header}");
    }
}

#[tokio::test]
async fn a_conversation_is_made_shown_changed_and_dissolved() {
    let api = Api::start().await;
    let mut bob = api.house.live("bob", "phone").await;
    let id = api.group("alice", &["bob"]).await;
    assert!(id.starts_with("g:alice:"), "{id}");
    let made = Api::entry(&mut bob, "conversation").await;
    assert_eq!((&made["change"], &made["members"]), (&json!("created"), &json!(["alice", "bob"])));

    let path = format!("conversations/{id}");
    let info = api.ok(Method::GET, &path, Value::Null).await;
    assert_eq!(
        info,
        json!({"conv_id": id, "kind": "group", "title": "Town", "history": "since_join", "head_seq": 1,
               "members_count": 2, "large": false, "dissolved": false})
    );
    let changed = api.ok(Method::PATCH, &path, json!({"title": "Village", "attributes": {"a": 1}})).await;
    assert_eq!(changed["conv_seq"], 3);
    assert_eq!(api.ok(Method::PATCH, &path, json!({"title": "Village", "unknown": []})).await["conv_seq"], 3);
    assert_eq!(Api::entry(&mut bob, "conversation").await["change"], "renamed");

    let dissolved = api.ok(Method::DELETE, &path, Value::Null).await;
    assert_eq!(dissolved, json!({"conv_id": id, "conv_seq": 4}));
    assert_eq!(api.ok(Method::DELETE, &path, Value::Null).await["conv_seq"], 4);
    loop {
        if Api::entry(&mut bob, "conversation").await["change"] == "dissolved" {
            break;
        }
    }
    // For every member as if he had left at it: he still reads, and may do nothing more.
    let history = bob.ask(json!({"type": "history", "conv_id": id})).await;
    assert_eq!((&history["type"], &history["head_seq"]), (&json!("history"), &json!(4)));
    let send = bob.ask(json!({"type": "send", "conv_id": id, "client_msg_id": "1", "body": {}})).await;
    assert_eq!(send["code"], "not_found");
    let listed = bob.ask(json!({"type": "conversations"})).await;
    assert_eq!(listed["conversations"][0]["left_seq"], 4);
    let info = api.ok(Method::GET, &path, Value::Null).await;
    assert_eq!((&info["dissolved"], &info["members_count"]), (&json!(true), &json!(0)));
    api.refused(Method::PATCH, &path, json!({"title": "x"}), 410, "gone", Value::Null).await;
    let members = format!("{path}/members");
    api.refused(Method::POST, &members, json!({"users": ["bob"]}), 410, "gone", Value::Null).await;
}

#[tokio::test]
async fn the_same_idempotency_key_makes_one_conversation_and_one_message() {
    let api = Api::start().await;
    for owner in [json!("alice"), Value::Null] {
        let content = json!({"owner": owner, "members": ["bob", "carol"]}).to_string();
        let mut ids = Vec::new();
        for _ in 0..2 {
            let request = api.request(Method::POST, "conversations").header("idempotency-key", "once");
            let (status, made) = Api::send(request.body(content.clone())).await;
            assert_eq!((status, &made["conv_seq"]), (200, &json!(1)));
            ids.push(made["conv_id"].as_str().unwrap().to_owned());
        }
        assert_eq!(ids[0], ids[1]);
    }
    let send = async |key: &str, body: Value| {
        let request = api.request(Method::POST, "conversations/d:alice:bob/messages").header("idempotency-key", key);
        Api::send(request.body(json!({"sender_id": "alice", "body": body}).to_string())).await
    };
    let (_, first) = send("k", json!({"n": 1})).await;
    let (_, again) = send("k", json!({"n": 1})).await;
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!((&first["conv_seq"], &first["sent_at"]), (&again["conv_seq"], &again["sent_at"]));
    let (status, conflict) = send("k", json!({"n": 2})).await;
    assert_eq!((status, &conflict["code"]), (409, &json!("idempotency_conflict")));
    let (status, bad) = send("tab\tinside", json!({})).await;
    assert_eq!((status, &bad["field"]), (400, &json!("Idempotency-Key")));
}

#[tokio::test]
async fn members_come_go_and_get_roles_in_pages_of_a_thousand() {
    let api = Api::start().await;
    let mut bob = api.house.live("bob", "phone").await;
    let made = api.ok(Method::POST, "conversations", json!({"members": ["bob"]})).await;
    let id = made["conv_id"].as_str().unwrap().to_owned();
    let path = format!("conversations/{id}/members");
    let many: Vec<String> = (0..300).map(|n| format!("u{n:04}")).collect();
    let added = api.ok(Method::POST, &path, json!({"users": many})).await;
    assert_eq!(added["conv_seq"], 301);
    assert_eq!(api.ok(Method::POST, &path, json!({"users": many})).await["conv_seq"], 301);
    let joined = Api::entry(&mut bob, "member").await;
    assert_eq!((&joined["change"], joined.get("by")), (&json!("joined"), None));

    let (mut seen, mut page) = (Vec::new(), String::new());
    loop {
        let answer = api.ok(Method::GET, &format!("{path}?limit=128{page}"), Value::Null).await;
        let members = answer["members"].as_array().unwrap();
        seen.extend(members.iter().map(|member| member["user_id"].as_str().unwrap().to_owned()));
        match answer["next"].as_str() {
            Some(next) => page = format!("&page={next}"),
            None => break,
        }
    }
    assert_eq!((seen.len(), seen.is_sorted()), (301, true));

    let role = async |user: &str, role: &str| {
        api.ok(Method::POST, &path, json!({"users": [user], "role": role})).await;
    };
    role("bob", "owner").await;
    role("u0001", "owner").await;
    let answer = api.ok(Method::GET, &format!("{path}?limit=1000"), Value::Null).await;
    let role_of = |answer: &Value, user: &str| {
        let members = answer["members"].as_array().unwrap();
        members.iter().find(|member| member["user_id"] == user).map(|member| member["role"].clone())
    };
    assert_eq!(role_of(&answer, "bob"), Some(json!("admin")));
    assert_eq!(role_of(&answer, "u0001"), Some(json!("owner")));
    api.ok(Method::DELETE, &path, json!({"users": ["u0001", "u0002", "stranger"]})).await;
    let answer = api.ok(Method::GET, &format!("{path}?limit=1000"), Value::Null).await;
    assert_eq!(answer["members"].as_array().unwrap().len(), 299);
    // The next in line has it now.
    assert_eq!(role_of(&answer, "bob"), Some(json!("owner")));
}

#[tokio::test]
async fn messages_are_sent_as_a_user_and_read_as_they_stand() {
    let api = Api::start().await;
    let mut bob = api.house.live("bob", "phone").await;
    let path = "conversations/d:alice:bob/messages";
    for n in 1..=3 {
        let content = json!({"sender_id": "alice", "client_msg_id": format!("m{n}"), "body": {"n": n}});
        assert_eq!(api.ok(Method::POST, path, content).await["conv_seq"], n);
    }
    let message = Api::entry(&mut bob, "message").await;
    assert_eq!((&message["sender_id"], &message["body"]), (&json!("alice"), &json!({"n": 1})));
    let mut alice = api.house.live("alice", "phone").await;
    alice.ask(json!({"type": "recall", "conv_id": "d:alice:bob", "target": 2})).await;
    let page = api.ok(Method::GET, &format!("{path}?limit=2"), Value::Null).await;
    assert_eq!((&page["entries"][0]["recalled"], &page["entries"][1]["body"]), (&json!(true), &json!({"n": 3})));
    assert_eq!((&page["next"], &page["complete"]), (&json!(2), &json!(false)));
    let page = api.ok(Method::GET, &format!("{path}?before=2"), Value::Null).await;
    assert_eq!((page["entries"].as_array().unwrap().len(), &page["complete"]), (1, &json!(true)));
    let list = api.ok(Method::GET, "users/bob/conversations", Value::Null).await;
    assert_eq!(
        (&list["conversations"][0]["conv_id"], &list["conversations"][0]["unread"]),
        (&json!("d:alice:bob"), &json!(2))
    );
}

#[tokio::test]
async fn notifications_reach_named_users_once() {
    let api = Api::start().await;
    let mut bob = api.house.live("bob", "phone").await;
    let content = json!({"users": ["bob", "carol"], "topic": "billing", "body": {"due": 3}}).to_string();
    let notify = async || {
        let request = api.request(Method::POST, "notifications").header("idempotency-key", "n1");
        Api::send(request.body(content.clone())).await
    };
    assert_eq!(notify().await, (200, json!({"made": 2, "duplicates": 0})));
    assert_eq!(notify().await, (200, json!({"made": 0, "duplicates": 2})));
    let entry = Api::entry(&mut bob, "notification").await;
    assert_eq!((&entry["topic"], &entry["body"]), (&json!("billing"), &json!({"due": 3})));
    // To everybody it is one notification, and nobody's own timeline is written.
    let request = api.request(Method::POST, "notifications");
    let content = json!({"users": "*", "topic": "billing", "body": {}}).to_string();
    assert_eq!(Api::send(request.body(content)).await, (200, json!({"made": 1, "duplicates": 0})));
}

#[tokio::test]
async fn a_revoked_device_is_closed_and_only_later_tokens_are_taken() {
    let api = Api::start().await;
    let old = api.house.token("bob");
    let mut bob = api.house.live("bob", "phone").await;
    let _tablet = api.house.live("bob", "tablet").await;
    let devices = api.ok(Method::GET, "users/bob/devices", Value::Null).await;
    let named: Vec<_> = devices["devices"].as_array().unwrap().iter().map(|device| &device["device_id"]).collect();
    assert_eq!(named, ["phone", "tablet"]);
    let revoked = api.ok(Method::DELETE, "users/bob/devices/phone", Value::Null).await;
    assert!(revoked["revoked_at"].is_u64());
    bob.fails("revoked", 4504).await;
    let devices = api.ok(Method::GET, "users/bob/devices", Value::Null).await;
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    // Again with the old token: refused; another device with it is not.
    let mut again = api.house.socket().await;
    assert_eq!(again.hello(&old, "phone", json!({})).await["code"], "revoked");
    assert_eq!(again.rest().await.1, 4504);
    let mut other = api.house.socket().await;
    assert_eq!(other.hello(&old, "watch", json!({})).await["type"], "welcome");
    api.house.clock.jump(1_000);
    let mut later = api.house.live("bob", "phone").await;
    // Nor does a session go on with the old one.
    assert_eq!(later.ask(json!({"type": "auth", "token": old})).await["code"], "revoked");
}

#[tokio::test]
async fn an_erased_user_is_gone_and_others_read_on() {
    for erase in [false, true] {
        let api = Api::start().await;
        let old = api.house.token("bob");
        let mut alice = api.house.live("alice", "phone").await;
        let mut bob = api.house.live("bob", "phone").await;
        let group = api.group("bob", &["alice", "carol"]).await;
        for conv in [group.as_str(), "d:alice:bob"] {
            for (sender, n) in [("bob", 1), ("alice", 2)] {
                let content = json!({"sender_id": sender, "body": {"n": n}});
                api.ok(Method::POST, &format!("conversations/{conv}/messages"), content).await;
            }
            bob.ask(json!({"type": "delete", "conv_id": conv, "ranges": [[1, 2]]})).await;
        }
        let path = if erase { "users/bob?messages=erase" } else { "users/bob" };
        let erased = api.ok(Method::DELETE, path, Value::Null).await;
        let expected = (json!(2), json!(if erase { 2 } else { 0 }));
        assert_eq!((erased["conversations"].clone(), erased["messages"].clone()), expected);
        assert_eq!(bob.rest().await.1, 4504);
        assert_eq!(api.ok(Method::DELETE, path, Value::Null).await["conversations"], 0);

        let left = loop {
            let entry = Api::entry(&mut alice, "member").await;
            if entry["conv_id"] == group.as_str() {
                break entry;
            }
        };
        assert_eq!((&left["change"], &left["user_id"]), (&json!("left"), &json!("bob")));
        for conv in [group.as_str(), "d:alice:bob"] {
            let history = alice.ask(json!({"type": "history", "conv_id": conv})).await;
            let entries = history["entries"].as_array().unwrap();
            assert_eq!(entries.len(), 2, "{history}");
            assert_eq!(entries[0].get("body").is_none(), erase, "{history}");
            assert_eq!(entries[1]["body"], json!({"n": 2}));
            let sent = alice.ask(json!({"type": "send", "conv_id": conv, "client_msg_id": conv, "body": {}})).await;
            assert_eq!(sent["type"], "sent", "{sent}");
        }
        // Nothing of his own is left: no rows, no entries, no devices.
        assert_eq!(api.ok(Method::GET, "users/bob/devices", Value::Null).await["devices"], json!([]));
        assert_eq!(api.ok(Method::GET, "users/bob/conversations", Value::Null).await["conversations"], json!([]));
        let timeline = TimelineId::User("bob".parse().unwrap());
        let head = api.house.store.head(&timeline).await.unwrap();
        assert_eq!(head.floor, head.position.seq);
        let mut again = api.house.socket().await;
        assert_eq!(again.hello(&old, "other", json!({})).await["code"], "revoked");
    }
}

#[tokio::test]
async fn bad_input_is_a_clear_error_and_changes_nothing() {
    let api = Api::start().await;
    let group = api.group("alice", &["bob"]).await;
    let conv = format!("conversations/{group}");
    let members = format!("{conv}/members");
    let messages = format!("{conv}/messages");
    let before = api.ok(Method::GET, &conv, Value::Null).await;
    let (post, get, patch, delete) = (Method::POST, Method::GET, Method::PATCH, Method::DELETE);
    let long = "x".repeat(257);
    let crowd: Vec<String> = (0..1001).map(|n| format!("u{n}")).collect();
    let field = |name: &str| json!(name);
    for (method, path, content, name) in [
        (&post, "conversations", json!({}), "members"),
        (&post, "conversations", json!({"members": []}), "members"),
        (&post, "conversations", json!({"members": crowd}), "members"),
        (&post, "conversations", json!({"members": ["no spaces"]}), "members"),
        (&post, "conversations", json!({"members": ["a"], "owner": "b c"}), "owner"),
        (&post, "conversations", json!({"members": ["a"], "title": ""}), "title"),
        (&post, "conversations", json!({"members": ["a"], "title": long}), "title"),
        (&post, "conversations", json!({"members": ["a"], "history": "some"}), "history"),
        (&post, "conversations", json!({"members": ["a"], "attributes": [1]}), "attributes"),
        (&patch, &conv, json!({"title": 7}), "title"),
        (&patch, &conv, json!({"attributes": {"a": "x".repeat(5000)}}), "attributes"),
        (&patch, "conversations/no%20spaces", json!({"title": "x"}), "conv_id"),
        (&get, "conversations/%C3%A4", Value::Null, "conv_id"),
        (&delete, "conversations/a%2Fb", Value::Null, "conv_id"),
        (&post, &members, json!({"users": "bob"}), "users"),
        (&post, &members, json!({"users": ["x", "y"], "role": "owner"}), "role"),
        (&post, &members, json!({"users": ["x"], "role": "king"}), "role"),
        (&delete, &members, json!({"users": []}), "users"),
        (&get, &format!("{members}?limit=0"), Value::Null, "limit"),
        (&get, &format!("{members}?limit=1001"), Value::Null, "limit"),
        (&get, &format!("{members}?page="), Value::Null, "page"),
        (&get, &format!("{members}?page=a%20b"), Value::Null, "page"),
        (&post, &messages, json!({"body": {}}), "sender_id"),
        (&post, &messages, json!({"sender_id": "alice"}), "body"),
        (&post, &messages, json!({"sender_id": "alice", "body": 1}), "body"),
        (&post, &messages, json!({"sender_id": "alice", "body": {}, "reply_to": 0}), "reply_to"),
        (&post, &messages, json!({"sender_id": "alice", "body": {}, "reply_to": 99}), "reply_to"),
        (&post, &messages, json!({"sender_id": "alice", "body": {}, "mentions": [1]}), "mentions"),
        (&post, &messages, json!({"sender_id": "alice", "body": {}, "client_msg_id": ""}), "client_msg_id"),
        (&get, &format!("{messages}?before=1&after=2"), Value::Null, "after"),
        (&get, &format!("{messages}?before=-1"), Value::Null, "before"),
        (&get, &format!("{messages}?limit=201"), Value::Null, "limit"),
        (&post, "notifications", json!({"users": "all", "topic": "t", "body": {}}), "users"),
        (&post, "notifications", json!({"users": ["a"], "body": {}}), "topic"),
        (&post, "notifications", json!({"users": ["a"], "topic": "t"}), "body"),
        (&get, "users/a%20b/devices", Value::Null, "user_id"),
        (&get, "users/a%20b/conversations", Value::Null, "user_id"),
        (&get, "users/a/conversations?active_after=x", Value::Null, "active_after"),
        (&delete, "users/a/devices/b%20c", Value::Null, "device_id"),
        (&delete, "users/a%20b", Value::Null, "user_id"),
        (&delete, "users/alice?messages=maybe", Value::Null, "messages"),
    ] {
        api.refused(method.clone(), path, content, 400, "invalid_field", field(name)).await;
    }
    for (method, path, content, status, code) in [
        (&get, "conversations/g:none", Value::Null, 404, "not_found"),
        (&patch, "conversations/g:none", json!({"title": "x"}), 404, "not_found"),
        (&delete, "conversations/g:none", Value::Null, 404, "not_found"),
        (&post, "conversations/g:none/members", json!({"users": ["a"]}), 404, "not_found"),
        (&delete, "conversations/g:none/members", json!({"users": ["a"]}), 404, "not_found"),
        (&get, "conversations/g:none/members", Value::Null, 404, "not_found"),
        (&get, "conversations/g:none/messages", Value::Null, 404, "not_found"),
        (&post, &messages, json!({"sender_id": "stranger", "body": {}}), 404, "not_found"),
        (&get, "nothing", Value::Null, 404, "not_found"),
        (&Method::PUT, &conv, Value::Null, 405, "unknown_type"),
    ] {
        api.refused(method.clone(), path, content, status, code, Value::Null).await;
    }
    let body = json!({"sender_id": "alice", "body": {"x": "y".repeat(40_000)}});
    api.refused(post.clone(), &messages, body, 413, "too_large", json!("body")).await;
    for text in ["", "{", "[]", "{\"a\":\"\\ud800\"}", "null"] {
        let (status, answer) = Api::send(api.request(post.clone(), &messages).body(text)).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_json")), "{text:?}: {answer}");
        is_error(&answer);
    }
    let huge = " ".repeat(200 * 1024);
    let (status, answer) = Api::send(api.request(post.clone(), &messages).body(huge)).await;
    assert_eq!((status, &answer["code"]), (413, &json!("too_large")));
    let direct = json!({"sender_id": "alice", "body": {}});
    api.ok(post.clone(), "conversations/d:alice:bob/messages", direct).await;
    for users in [json!("*"), json!(["bob"])] {
        api.ok(post.clone(), "notifications", json!({"users": users, "topic": "t", "body": {}})).await;
    }
    // Nobody comes into or goes out of a direct conversation, or of the logs behind notifications.
    for id in ["d:alice:bob", "b:all", "s:bob"] {
        let path = format!("conversations/{id}");
        let members = format!("{path}/members");
        for (method, path, content) in [
            (&delete, &path, Value::Null),
            (&patch, &path, json!({"title": "x"})),
            (&post, &members, json!({"users": ["carol"]})),
            (&delete, &members, json!({"users": ["bob"]})),
        ] {
            api.refused(method.clone(), path, content, 403, "forbidden", Value::Null).await;
        }
    }
    assert_eq!(api.ok(Method::GET, &conv, Value::Null).await, before);
}
