//! The client library stands without the server.

#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

#[test]
fn the_client_needs_nothing_of_the_server() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--no-default-features", "-e", "normal", "--prefix", "none", "-p", "everline"])
        .args(["--manifest-path", manifest])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let used: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(used.contains(&"tokio-tungstenite"), "{tree}");
    for server_part in ["axum", "hyper", "fjall", "scylla", "dashmap", "jsonwebtoken", "rustls", "clap", "schemars"] {
        assert!(!used.contains(&server_part), "{server_part} is needed by the client");
    }
}
