//! The protocol as an AsyncAPI 3.0 document, made from the same definitions as the JSON Schema.
//!
//! `docs/asyncapi.json` is this text; a test fails when it is stale. It is told from the server's side:
//! what a client sends is received, what a server sends is sent.

use serde_json::{Map, Value, json};

use super::schema;

/// Which frames answer which requests; of those not named here, `ok`.
const ANSWERS: [(&str, &str); 7] = [
    ("SendRequest", "SentAnswer"),
    ("HistoryRequest", "HistoryAnswer"),
    ("ChangesRequest", "ChangesAnswer"),
    ("ConversationsRequest", "ConversationsAnswer"),
    ("MembersRequest", "MembersAnswer"),
    ("DevicesRequest", "DevicesAnswer"),
    ("PresenceRequest", "PresenceAnswer"),
];
/// Requests answered by frames that come unasked too.
const MORE: [(&str, &[&str]); 2] = [("SyncRequest", &["SyncFrame", "ResetFrame"]), ("ClientHello", &["WelcomeFrame"])];

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut schemas = schema::document().get("$defs").cloned().unwrap_or_default();
    move_refs(&mut schemas);
    let (client, server) = (members(&schemas, "ClientFrame"), members(&schemas, "ServerFrame"));
    let (mut messages, mut places, mut operations) = (Map::new(), Map::new(), Map::new());
    for name in client.iter().chain(&server) {
        let summary = schemas.get(name).and_then(|schema| schema.get("description")).cloned();
        let mut message = json!({ "name": name, "payload": { "$ref": format!("#/components/schemas/{name}") } });
        if let (Some(message), Some(summary)) = (message.as_object_mut(), summary) {
            message.insert("summary".to_owned(), summary);
        }
        messages.insert(name.clone(), message);
        places.insert(name.clone(), json!({ "$ref": format!("#/components/messages/{name}") }));
    }
    for name in &client {
        operations.insert(format!("receive{name}"), received(name));
    }
    for name in server.iter().filter(|name| !name.ends_with("Answer")) {
        operations.insert(
            format!("send{name}"),
            json!({
                "action": "send", "channel": { "$ref": "#/channels/socket" }, "messages": [in_channel(name)],
            }),
        );
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Everline client protocol",
            "version": "1",
            "description": "JSON text frames over one WebSocket. The contract is docs/protocol.md.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": { "local": { "host": "127.0.0.1:7700", "protocol": "ws" } },
        "channels": { "socket": {
            "address": "/v1/ws",
            "description": "Sub-protocol everline.v1.json; one frame of JSON text is one message.",
            "messages": places,
            "bindings": { "ws": {
                "method": "GET",
                "headers": {
                    "type": "object",
                    "required": ["Sec-WebSocket-Protocol"],
                    "properties": {
                        "Sec-WebSocket-Protocol": { "const": "everline.v1.json" },
                        "Authorization": { "type": "string", "description": "Bearer and a JWT; or token in hello." },
                    },
                },
            } },
        } },
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas },
    })
}

/// What the server does with a frame of a client.
fn received(name: &str) -> Value {
    let mut operation = json!({
        "action": "receive", "channel": { "$ref": "#/channels/socket" }, "messages": [in_channel(name)],
    });
    let answers = match MORE.iter().find(|(request, _)| *request == name) {
        Some((_, answers)) => answers.to_vec(),
        None if name.ends_with("Request") => {
            vec![ANSWERS.iter().find(|(request, _)| *request == name).map_or("OkAnswer", |(_, answer)| answer)]
        }
        None => return operation,
    };
    let answers: Vec<Value> = answers.into_iter().chain(["ErrorFrame"]).map(in_channel).collect();
    let reply = json!({ "channel": { "$ref": "#/channels/socket" }, "messages": answers });
    if let Some(operation) = operation.as_object_mut() {
        operation.insert("reply".to_owned(), reply);
    }
    operation
}

fn in_channel(name: &str) -> Value {
    json!({ "$ref": format!("#/channels/socket/messages/{name}") })
}

/// The frames of a union, those of unions in it too.
fn members(schemas: &Value, union: &str) -> Vec<String> {
    let variants = schemas.pointer(&format!("/{union}/anyOf")).and_then(Value::as_array);
    let target = |variant: &Value| variant.get("$ref")?.as_str()?.rsplit('/').next().map(str::to_owned);
    let mut found = Vec::new();
    for name in variants.into_iter().flatten().filter_map(target) {
        let inner = members(schemas, &name);
        if inner.is_empty() { found.push(name) } else { found.extend(inner) }
    }
    found
}

fn move_refs(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref") {
                *target = target.replace("#/$defs/", "#/components/schemas/");
            }
            map.values_mut().for_each(move_refs);
        }
        Value::Array(items) => items.iter_mut().for_each(move_refs),
        _ => {}
    }
}
