//! `docs/openapi.json` is what the table of routes says, is served, and hangs together.
//! `EVERLINE_BLESS=1 cargo test --test api_document` rewrites the file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a failure is a panic")]

use std::collections::BTreeSet;

use everline::server::api::openapi::document;
use serde_json::Value;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

#[test]
fn the_openapi_file_is_what_the_routes_say() {
    let now = document();
    if std::env::var_os("EVERLINE_BLESS").is_some() {
        std::fs::write(PATH, serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
    }
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(PATH).unwrap_or_default()).unwrap_or_default();
    assert!(kept == now, "stale: run EVERLINE_BLESS=1 cargo test --test api_document");
}

#[test]
fn every_operation_is_named_once_and_everything_referred_to_is_there() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name} twice");
            assert!(operation.pointer("/responses/200/content/application~1json/schema").is_some(), "{name}");
            assert!(operation.pointer("/responses/401").is_some(), "{name}");
            let parameters = operation["parameters"].as_array().unwrap();
            let told: BTreeSet<_> = parameters
                .iter()
                .filter(|parameter| parameter["in"] == "path" && parameter["required"] == true)
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let named: BTreeSet<_> = path.split(['{', '}']).skip(1).step_by(2).collect();
            assert_eq!(told, named, "{method} {path}");
            assert_eq!(
                operation.get("requestBody").is_some(),
                matches!(method.as_str(), "post" | "patch") || name == "removeMembers"
            );
        }
    }
    assert!(names.len() >= 13, "{names:?}");
    for target in targets(&document) {
        let place = target.strip_prefix('#').unwrap();
        assert!(document.pointer(place).is_some(), "{target} is not there");
    }
}

fn targets(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => {
            let own = map.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(map.values().flat_map(targets)).collect()
        }
        Value::Array(items) => items.iter().flat_map(targets).collect(),
        _ => Vec::new(),
    }
}
