//! Every test that `docs/guarantees.md` names exists, and every line names one or says what is missing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a failure is a panic")]

use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The tests a line names: pairs of file and name between backticks.
fn named(line: &str) -> Vec<(&str, &str)> {
    line.split('`').skip(1).step_by(2).filter_map(|text| text.split_once(": ")).collect()
}

fn exists(file: &str, name: &str) -> bool {
    let text = std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_default();
    if file.ends_with(".rs") { text.contains(&format!("fn {name}(")) } else { text.contains(&format!("\"{name}\"")) }
}

#[test]
fn every_test_named_exists_and_every_line_names_one() {
    let document = std::fs::read_to_string(Path::new(ROOT).join("docs/guarantees.md")).unwrap();
    let mut wrong = Vec::new();
    let mut lines = 0;
    for line in document.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |")) {
        lines += 1;
        let tests = named(line);
        if tests.is_empty() && !line.contains("missing") {
            wrong.push(format!("no test: {line}"));
        }
        wrong.extend(
            tests.iter().filter(|(file, name)| !exists(file, name)).map(|(file, name)| format!("{file}: {name}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(lines > 40, "{lines}");
    assert!(!exists("tests/guarantees.rs", "a_test_that_is_not_there"));
}
