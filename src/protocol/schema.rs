//! JSON Schema of every frame, made from the types that read and write them.
//!
//! `docs/protocol.schema.json` is this text; a test fails when it is stale. Each frame has a
//! definition of its own, told apart by a constant `type`, each event one with a constant `op`.
//! Sizes and the rules between fields that a schema cannot say are in the protocol document.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::limits::MAX_SAFE_INTEGER;
use super::{ClientFrame, ServerFrame};

type Definitions = Map<String, Value>;

/// The schema document: `ClientFrame`, `ServerFrame` and all they use under `$defs`.
#[must_use]
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<ClientFrame>();
    generator.subschema_for::<ServerFrame>();
    let mut defs = generator.take_definitions(true);

    let events = named(&mut defs, "Event", "op", |name| format!("{name}Event"));
    let requests = named(&mut defs, "Envelope", "type", |name| format!("{name}Request"));
    let answers = named(&mut defs, "Answer", "type", |name| format!("{name}Answer"));
    let client = named(&mut defs, "ClientFrame", "type", |name| format!("Client{name}"));
    let server = named(&mut defs, "ServerFrame", "type", |name| format!("{name}Frame"));
    defs.remove("Envelope");
    for inlined in ["Hello", "Send", "Message", "Welcome", "Reset"] {
        defs.remove(inlined);
    }
    union(&mut defs, "Event", "One thing that happened.", events);
    union(&mut defs, "Request", "Answered once, by a frame with the same id.", requests);
    union(&mut defs, "Answer", "Carries the id of its request.", answers);
    union(&mut defs, "ClientFrame", "Anything a client sends.", [client, refs(["Request"])].concat());
    union(&mut defs, "ServerFrame", "Anything a server sends.", [server, refs(["Answer"])].concat());
    entries(&mut defs);
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Everline client protocol, version 1",
        "anyOf": refs(["ClientFrame", "ServerFrame"]),
        "$defs": defs,
    });
    bound_integers(&mut document);
    document
}

/// Gives each variant of the union `name` a definition of its own; the references to them.
/// Variants without a constant `tag` (references to another union) are left out.
fn named(defs: &mut Definitions, name: &str, tag: &str, label: impl Fn(&str) -> String) -> Vec<Value> {
    let union = defs.get(name).cloned().unwrap_or_default();
    let variants = ["oneOf", "anyOf"].iter().find_map(|key| union.get(key)?.as_array());
    let mut names = Vec::new();
    for variant in variants.into_iter().flatten() {
        let mut flat = json!({ "type": "object" });
        let Some(constant) = variant.pointer(&format!("/properties/{tag}/const")) else {
            continue;
        };
        // The tag first, then what all variants share, then the variant's own.
        merge(&mut flat, variant);
        merge(&mut flat, &json!({ "properties": union.get("properties"), "required": union.get("required") }));
        if let Some(inner) = variant.get("$ref").and_then(|target| resolve(defs, target)) {
            merge(&mut flat, inner);
        }
        let label = label(&camel(constant.as_str().unwrap_or_default()));
        defs.insert(label.clone(), flat);
        names.push(label);
    }
    refs(names)
}

fn resolve<'a>(defs: &'a Definitions, target: &Value) -> Option<&'a Value> {
    defs.get(target.as_str()?.strip_prefix("#/$defs/")?)
}

/// Adds properties, required names and everything `flat` has not got yet, but `$ref`.
fn merge(flat: &mut Value, other: &Value) {
    let (Some(flat), Some(other)) = (flat.as_object_mut(), other.as_object()) else {
        return;
    };
    for (key, value) in other {
        match (flat.get_mut(key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => {
                for (name, property) in from {
                    into.entry(name.clone()).or_insert_with(|| property.clone());
                }
            }
            (Some(Value::Array(into)), Value::Array(from)) => into.extend(from.iter().cloned()),
            (None, value) if key != "$ref" && !value.is_null() => {
                flat.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
}

fn camel(word: &str) -> String {
    let part = |part: &str| {
        let (first, rest) = part.split_at_checked(1).unwrap_or_default();
        first.to_ascii_uppercase() + rest
    };
    word.split('_').map(part).collect()
}

fn refs<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Vec<Value> {
    names.into_iter().map(|name| json!({ "$ref": format!("#/$defs/{}", name.as_ref()) })).collect()
}

fn union(defs: &mut Definitions, name: &str, description: &str, of: Vec<Value>) {
    defs.insert(name.to_owned(), json!({ "description": description, "anyOf": of }));
}

/// Entries are an event and something more.
fn entries(defs: &mut Definitions) {
    for (name, field) in [("Entry", "seq"), ("HistoryEntry", "reactions")] {
        let Some(flat) = defs.get_mut(name) else {
            continue;
        };
        *flat = json!({
            "description": flat.get("description"),
            "allOf": [
                { "$ref": "#/$defs/Event" },
                {
                    "type": "object",
                    "properties": flat.get("properties"),
                    "required": if field == "seq" { json!([field]) } else { json!([]) },
                },
            ],
        });
    }
}

/// `format` says 64 bits; the contract says 2^53-1.
pub fn bound_integers(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.remove("format").is_some_and(|format| format == "uint64") {
                map.insert("maximum".to_owned(), json!(MAX_SAFE_INTEGER));
            }
            map.values_mut().for_each(bound_integers);
        }
        Value::Array(items) => items.iter_mut().for_each(bound_integers),
        _ => {}
    }
}
