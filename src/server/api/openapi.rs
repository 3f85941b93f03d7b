//! The OpenAPI document, made from the table of routes and the types they read and write.
//!
//! `docs/openapi.json` is this text; a test fails when it is stale.

use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::problem::status;
use super::table::{Kind, Param, ROUTES, Route};
use super::{MAX_CONTENT, PREFIX};
use crate::protocol::{ErrorCode, schema};

/// Every route may answer these.
const ALWAYS: [ErrorCode; 4] =
    [ErrorCode::InvalidField, ErrorCode::InvalidToken, ErrorCode::Overloaded, ErrorCode::Unavailable];
/// Every route with a content, these.
const WITH_CONTENT: [ErrorCode; 2] = [ErrorCode::BadJson, ErrorCode::TooLarge];

/// The document.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/$defs".into());
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operation(route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Everline server API",
            "version": "1",
            "description": "For the application's own server. Names mean what they mean in the client protocol \
                            (docs/protocol.md); errors are its error frames. Fields not named here are ignored. \
                            Every operation may be repeated: with the same Idempotency-Key where there is one, \
                            else it is idempotent by its meaning.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": PREFIX }],
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer", "description": "An --api-key." } },
            "schemas": generator.take_definitions(true),
        },
    });
    take_protocol_types(&mut document);
    schema::bound_integers(&mut document);
    repoint(&mut document);
    document
}

fn operation(route: &Route, generator: &mut schemars::SchemaGenerator) -> Value {
    let path = route.path.split(['{', '}']).skip(1).step_by(2).map(path_parameter);
    let query = route.query.iter().map(query_parameter);
    let key = route.keyed.then(|| {
        json!({ "name": "Idempotency-Key", "in": "header", "schema": { "$ref": "#/$defs/MsgId" },
                "description": "The same key again has the same effect once." })
    });
    if route.keyed {
        generator.subschema_for::<crate::protocol::MsgId>();
    }
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.about,
        "parameters": path.chain(query).chain(key).collect::<Vec<_>>(),
        "responses": responses(route, generator),
    });
    if let Some(content) = route.content {
        operation["requestBody"] = json!({
            "required": true,
            "description": format!("At most {MAX_CONTENT} bytes."),
            "content": { "application/json": { "schema": content(generator) } },
        });
    }
    operation
}

fn path_parameter(name: &str) -> Value {
    let schema = match name {
        "conv_id" => "ConvId",
        "device_id" => "DeviceId",
        _ => "UserId",
    };
    json!({ "name": name, "in": "path", "required": true, "schema": { "$ref": format!("#/$defs/{schema}") } })
}

fn query_parameter(param: &Param) -> Value {
    let schema = match &param.kind {
        Kind::Number { most } => json!({ "type": "integer", "minimum": 0, "maximum": most }),
        Kind::Text { most } => json!({ "type": "string", "minLength": 1, "maxLength": most }),
        Kind::Word(words) => json!({ "type": "string", "enum": words, "default": words.first() }),
    };
    json!({ "name": param.name, "in": "query", "description": param.about, "schema": schema })
}

fn responses(route: &Route, generator: &mut schemars::SchemaGenerator) -> Value {
    let mut responses = Map::new();
    responses.insert(
        "200".to_owned(),
        json!({ "description": "Done.", "content": { "application/json": { "schema": (route.gives)(generator) } } }),
    );
    let with_content: &[ErrorCode] = if route.content.is_some() { &WITH_CONTENT } else { &[] };
    let codes: BTreeSet<_> = ALWAYS
        .iter()
        .chain(with_content)
        .chain(route.errors)
        .map(|code| (status(*code).as_u16(), code.as_str()))
        .collect();
    for (status, code) in codes {
        let entry = responses.entry(status.to_string()).or_insert_with(|| {
            json!({ "description": "", "content": { "application/json": { "schema": { "$ref": "#/$defs/ErrorFrame" } } } })
        });
        let before = entry["description"].as_str().unwrap_or_default();
        let joined = if before.is_empty() { format!("`{code}`") } else { format!("{before}, `{code}`") };
        entry["description"] = json!(joined);
    }
    Value::Object(responses)
}

/// Types of the client protocol are taken as its own schema says them, and all they use with them.
fn take_protocol_types(document: &mut Value) {
    let known = schema::document();
    let known = known["$defs"].as_object().cloned().unwrap_or_default();
    let mut schemas = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
    let own: BTreeSet<String> = schemas.keys().filter(|name| !known.contains_key(*name)).cloned().collect();
    schemas.retain(|name, _| own.contains(name));
    let mut wanted: Vec<String> = names(&document["paths"]);
    wanted.extend(schemas.values().flat_map(names));
    while let Some(name) = wanted.pop() {
        let Some(found) = known.get(&name).filter(|_| !schemas.contains_key(&name)) else { continue };
        wanted.extend(names(found));
        schemas.insert(name, found.clone());
    }
    document["components"]["schemas"] = Value::Object(schemas);
}

/// The definitions a schema refers to.
fn names(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(map) => {
            let own = map.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix("#/$defs/"));
            own.map(str::to_owned).into_iter().chain(map.values().flat_map(names)).collect()
        }
        Value::Array(items) => items.iter().flat_map(names).collect(),
        _ => Vec::new(),
    }
}

/// Definitions stand elsewhere in an OpenAPI document.
fn repoint(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref") {
                *target = target.replace("#/$defs/", "#/components/schemas/");
            }
            map.values_mut().for_each(repoint);
        }
        Value::Array(items) => items.iter_mut().for_each(repoint),
        _ => {}
    }
}
