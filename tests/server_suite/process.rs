//! The program itself: signals, exit codes, one line on stderr.

use std::process::{Output, Stdio};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{Client, PATIENCE, SECRET};

fn everline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everline"));
    // Nothing of the tester's own configuration: neither variables nor a file in the directory.
    command.args(args).env_clear().current_dir(env!("CARGO_TARGET_TMPDIR")).kill_on_drop(true);
    command
}

async fn output(args: &[&str]) -> Output {
    timeout(PATIENCE, everline(args).output()).await.unwrap().unwrap()
}

struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    addr: String,
}

/// A server on any port; waits for the line that tells it.
async fn serve() -> Running {
    let mut command = everline(&["serve", "--store", "memory:", "--listen", "127.0.0.1:0", "--jwt-secret", SECRET]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    loop {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        if let Some((_, rest)) = line.split_once("listening addr=") {
            let addr = rest.split_whitespace().next().unwrap().to_owned();
            return Running { child, lines, addr };
        }
    }
}

impl Running {
    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
    }

    async fn live(&self, user: &str) -> Client {
        let minted = output(&["token", "--user", user, "--jwt-secret", SECRET]).await;
        let token = String::from_utf8(minted.stdout).unwrap();
        let mut request = format!("ws://{}/v1/ws", self.addr).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "everline.v1.json".parse().unwrap());
        let stream = TcpStream::connect(&self.addr).await.unwrap();
        let (ws, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let mut client = Client { ws, seq: 0 };
        assert_eq!(client.hello(token.trim(), "phone", json!({})).await["type"], "welcome");
        assert_eq!(client.next().await["live"], true);
        client
    }
}

#[tokio::test]
async fn sigterm_closes_every_session_with_1012_and_exits_0() {
    let mut server = serve().await;
    let (mut alice, mut bob) = (server.live("alice").await, server.live("bob").await);
    server.signal("TERM").await;
    assert_eq!((alice.rest().await.1, bob.rest().await.1), (1012, 1012));
    let status = timeout(PATIENCE, server.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(TcpStream::connect(&server.addr).await.is_err());
}

#[tokio::test]
async fn a_second_sigterm_exits_at_once() {
    let mut server = serve().await;
    // A client that never answers the close would be waited for.
    let _deaf = server.live("alice").await;
    let _other = server.live("bob").await;
    server.signal("TERM").await;
    loop {
        let line = timeout(PATIENCE, server.lines.next_line()).await.unwrap().unwrap().unwrap();
        if line.contains("draining") {
            break;
        }
    }
    server.signal("TERM").await;
    let status = timeout(PATIENCE, server.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_one_line_and_exit_code_2() {
    for (args, says) in [
        (vec!["serve", "--store", "memory:"], "jwt-secret"),
        (vec!["serve", "--jwt-secret", "x", "--store", "cql://a:1"], "--store"),
        (vec!["serve", "--jwt-secret", "x", "--store", "memory:", "--nats", "nats://a:1"], "remove it"),
        (vec!["serve", "--jwt-secret", "x", "--heartbeat", "soon"], "--heartbeat: not a duration"),
        (vec!["serve", "--config", "/nowhere/everline.toml"], "cannot be read"),
        (vec!["serve", "--store", "memory:", "--jwt-public-key", "/nowhere/key.pem"], "jwt-public-key"),
        (vec!["token", "--user", "alice"], "jwt-secret"),
        (vec!["token", "--user", "no spaces", "--jwt-secret", "x"], "--user"),
    ] {
        let output = output(&args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.starts_with("everline: ") && said.contains(says), "{args:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_one_line_and_exit_code_1() {
    let server = serve().await;
    let output = output(&["serve", "--store", "memory:", "--jwt-secret", "x", "--listen", &server.addr]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.trim_end().lines().count()), (Some(1), 1), "{said}");
}

#[tokio::test]
async fn the_environment_configures_and_flags_go_over_it() {
    let mut command = everline(&["token", "--user", "alice"]);
    let output = command.env("EVERLINE_JWT_SECRET", SECRET).output().await.unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim().split('.').count(), 3);
    let mut command = everline(&["serve", "--store", "memory:", "--jwt-secret", "x", "--heartbeat", "bad"]);
    let output = command.env("EVERLINE_HEARTBEAT", "1s").output().await.unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("--heartbeat"));
}

#[tokio::test]
async fn help_tells_every_default() {
    let output = output(&["serve", "--help"]).await;
    let help = String::from_utf8(output.stdout).unwrap();
    for shown in ["--listen", "127.0.0.1:7700", "--sync-max-age", "EVERLINE_RATE_CONNECTS", "[default: 25s]"] {
        assert!(help.contains(shown), "{shown}");
    }
}
