//! `docs/protocol.schema.json` and `docs/asyncapi.json` are what the types say, and the golden frames obey
//! the schema. `EVERLINE_BLESS=1 cargo test --test protocol_schema` rewrites the files.

#![cfg(feature = "schema")]
#![allow(clippy::unwrap_used, clippy::panic)]

use everline::protocol::asyncapi;
use everline::protocol::schema::document;
use serde_json::Value;

/// Compares a file with what it is made from; as values: the order of keys is no part of it.
fn is_fresh(file: &str, now: &Value) -> bool {
    let path = format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("EVERLINE_BLESS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(now).unwrap() + "\n").unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    serde_json::from_str::<Value>(&kept).unwrap_or_default() == *now
}

#[test]
fn the_schema_file_is_what_the_types_say() {
    let fresh = is_fresh("protocol.schema.json", &document());
    assert!(fresh, "stale: run EVERLINE_BLESS=1 cargo test --test protocol_schema");
}

#[test]
fn the_asyncapi_file_is_what_the_types_say_and_everything_it_refers_to_is_there() {
    let now = asyncapi::document();
    assert!(is_fresh("asyncapi.json", &now), "stale: run EVERLINE_BLESS=1 cargo test --test protocol_schema");
    let mut open = vec![&now];
    let mut found = 0;
    while let Some(value) = open.pop() {
        if let Some(target) = value.get("$ref").and_then(Value::as_str) {
            found += 1;
            assert!(now.pointer(&target[1..]).is_some(), "{target}");
        }
        match value {
            Value::Object(map) => open.extend(map.values()),
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    assert!(found > 300, "{found}");
    for (request, answer) in
        [("SendRequest", "SentAnswer"), ("ClientHello", "WelcomeFrame"), ("AuthRequest", "OkAnswer")]
    {
        let replies = now.pointer(&format!("/operations/receive{request}/reply/messages")).unwrap();
        assert!(replies.as_array().unwrap().iter().any(|reply| reply["$ref"].as_str().unwrap().ends_with(answer)));
    }
}

#[test]
fn golden_frames_obey_the_schema_and_each_has_one_definition() {
    let root = document();
    for (file, union, expect) in [
        (include_str!("golden/client.json"), "ClientFrame", 1),
        (include_str!("golden/server.json"), "ServerFrame", 1),
        (include_str!("golden/entries.json"), "Entry", 1),
    ] {
        let frames: Vec<Value> = serde_json::from_str(file).unwrap();
        for frame in frames {
            let schema = root.pointer(&format!("/$defs/{union}")).unwrap();
            assert!(obeys(&root, schema, &frame), "{union}: {frame}");
            let mut leaves = leaves(&root, schema, &frame);
            // A presence answer is a pushed presence with an id.
            leaves.retain(|name| !(name == "PresenceFrame" && frame.get("id").is_some()));
            assert_eq!(leaves.len(), expect, "{leaves:?}: {frame}");
        }
    }
}

#[test]
fn the_schema_refuses_what_is_wrong() {
    let root = document();
    let client = root.pointer("/$defs/ClientFrame").unwrap();
    let server = root.pointer("/$defs/ServerFrame").unwrap();
    for (schema, bad) in [
        (client, r#"{"type":"ack"}"#),
        (client, r#"{"type":"ack","seq":-1}"#),
        (client, r#"{"type":"nothing","seq":1}"#),
        (client, r#"{"type":"devices"}"#),
        (client, r#"{"type":"send","id":"1","client_msg_id":"m","body":{}}"#),
        (client, r#"{"type":"send","id":"1","to":"b","client_msg_id":"m","body":[]}"#),
        (client, r#"{"type":"role","id":"1","conv_id":"g:1","user_id":"u","role":"king"}"#),
        (server, r#"{"type":"sent","id":"1"}"#),
        (server, r#"{"type":"heads","conversations":[{"conv_id":"g:1"}]}"#),
        (server, r#"{"type":"sync","from_seq":1,"to_seq":2,"live":true,"entries":[{"seq":1}]}"#),
    ] {
        assert!(!obeys(&root, schema, &serde_json::from_str(bad).unwrap()), "{bad}");
    }
}

/// Names of the definitions with a `type` or `op` constant under `schema` that `value` obeys.
fn leaves(root: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for key in ["anyOf", "allOf"] {
        for part in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = part["$ref"].as_str() else {
                continue;
            };
            let inner = root.pointer(&name[1..]).unwrap();
            let tag = |tag: &str| inner.pointer(&format!("/properties/{tag}/const")).is_some();
            if (tag("type") || tag("op")) && obeys(root, inner, value) {
                found.push(name.rsplit('/').next().unwrap().to_owned());
            } else {
                found.extend(leaves(root, inner, value));
            }
        }
    }
    found
}

/// The part of JSON Schema the document uses, but `pattern` and lengths.
fn obeys(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(schema) = schema.as_object() else {
        return *schema == Value::Bool(true);
    };
    schema.iter().all(|(key, rule)| keyword(root, key, rule, value))
}

fn keyword(root: &Value, key: &str, rule: &Value, value: &Value) -> bool {
    let each = || rule.as_array().unwrap().iter();
    let object = value.as_object();
    match key {
        "$ref" => obeys(root, root.pointer(&rule.as_str().unwrap()[1..]).unwrap(), value),
        "const" => rule == value,
        "enum" => each().any(|word| word == value),
        "type" if rule.is_array() => each().any(|one| is(one, value)),
        "type" => is(rule, value),
        "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap()),
        "anyOf" => each().any(|one| obeys(root, one, value)),
        "oneOf" => each().filter(|one| obeys(root, one, value)).count() == 1,
        "allOf" => each().all(|one| obeys(root, one, value)),
        "required" => object.is_none_or(|o| each().all(|k| o.contains_key(k.as_str().unwrap()))),
        "properties" => object.is_none_or(|o| {
            let mut rules = rule.as_object().unwrap().iter();
            rules.all(|(name, rule)| o.get(name).is_none_or(|value| obeys(root, rule, value)))
        }),
        "additionalProperties" => object.is_none_or(|o| o.values().all(|value| obeys(root, rule, value))),
        "items" => value.as_array().is_none_or(|a| a.iter().all(|item| obeys(root, rule, item))),
        "prefixItems" => value.as_array().is_none_or(|a| each().zip(a).all(|(rule, item)| obeys(root, rule, item))),
        "minItems" => value.as_array().is_none_or(|a| a.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => value.as_array().is_none_or(|a| a.len() as u64 <= rule.as_u64().unwrap()),
        "description" | "default" | "pattern" | "minLength" | "maxLength" | "format" => true,
        other => panic!("a keyword this test does not know: {other}"),
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("a type this test does not know: {other}"),
    }
}
