//! JSON Schema of every frame, made from the types that read and write them.
//!
//! `docs/protocol.schema.json` is this text; a test fails when it is stale. Sizes and the rules
//! between fields that a schema cannot say are in the protocol document.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::{ClientFrame, ServerFrame};

/// The schema document: `ClientFrame`, `ServerFrame` and all they use under `$defs`.
#[must_use]
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let client = generator.subschema_for::<ClientFrame>();
    let server = generator.subschema_for::<ServerFrame>();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Everline client protocol, version 1",
        "anyOf": [client, server],
        "$defs": generator.take_definitions(true),
    })
}
