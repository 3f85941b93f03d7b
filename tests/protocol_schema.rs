#[test]
fn p() {
    std::fs::write(
        "/tmp/proto_schema.json",
        serde_json::to_string_pretty(&everline::protocol::schema::document()).unwrap(),
    )
    .unwrap();
}
