//! `everline demo`: a server on this machine only, with the web client on its page: several people and
//! devices side by side. Needs nothing but the binary.
//!
//! Tokens are given to whoever asks, so it must not listen on anything but a loopback address, nor answer
//! a browser that was led here by another name. The secret lives in memory and ends with the process.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use clap::{Arg, ArgMatches, Command};
use everline::auth::Minter;
use everline::config::{Clock, Options, Settings};
use everline::protocol::UserId;
use serde::Deserialize;

use super::{Failure, print, serve, start_logging};

/// How long a token of the page is good for.
const TOKEN_TTL: Duration = Duration::from_secs(60 * 60);
/// The page loads nothing from elsewhere.
const CONTENT_POLICY: &str =
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// The files of the page: path, type, content. They are built from `clients/web` and checked in.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("../../clients/web/dist/index.html")),
    ("/demo/style.css", CSS, include_str!("../../clients/web/dist/style.css")),
    ("/demo/app.js", JS, include_str!("../../clients/web/dist/app.js")),
];

pub(super) fn command() -> Command {
    let option = |name: &'static str, value: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).default_value(default).help(help)
    };
    Command::new("demo")
        .about("Runs a server on this machine only, with a page to try it on")
        .arg(option("listen", "HOST:PORT", "127.0.0.1:7700", "Where to listen; loopback addresses only"))
        .arg(option("dir", "DIR", "./everline-demo", "Where data is kept"))
        .arg(option("sync-max-entries", "N", "1000", "Entries kept in a user's sync timeline; few show a reset"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let listen = text("listen");
    if !is_loopback(&listen) {
        return Err(Failure::Usage(format!("demo gives tokens to everybody: {listen} is not a loopback address")));
    }
    let secret: [u8; 32] = rand::random();
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let options = Options::defaults()
        .with_default("listen", listen)
        .with_default("store", format!("embedded:{}", text("dir")))
        .with_default("sync-max-entries", text("sync-max-entries"))
        // Each tab of a browser is devices of its own.
        .with_default("max-devices", "1000")
        .with_default("jwt-secret", secret.as_str());
    let settings = Settings::read(&options)?;
    start_logging();
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
    let minter = Minter::new(&secret, Clock::system());
    let page = router(Tokens { minter, sync_max_entries: settings.policy.sync_max_entries });
    runtime.block_on(serve::serve(&settings, Some(page), |server| {
        print::line(format_args!("open http://{}", server.addr()))
    }))
}

/// Whether only this machine can reach it.
fn is_loopback(listen: &str) -> bool {
    match listen.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => listen.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
    }
}

/// What the token route needs.
struct Tokens {
    minter: Minter,
    /// Told to the page, which draws the floor.
    sync_max_entries: u64,
}

fn router(tokens: Tokens) -> Router {
    let files = FILES.iter().fold(Router::new(), |router, (path, kind, content)| {
        router.route(path, get(async move || file(kind, content)))
    });
    files.merge(Router::new().route("/demo/token", get(token)).with_state(Arc::new(tokens)))
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, content).into_response()
}

#[derive(Deserialize)]
struct Wanted {
    user: String,
}

async fn token(State(tokens): State<Arc<Tokens>>, Query(wanted): Query<Wanted>, headers: HeaderMap) -> Response {
    if !is_asked_here(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Ok(user) = UserId::parse(&wanted.user) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let token = tokens.minter.mint(&user, None, TOKEN_TTL);
    let answer = serde_json::json!({ "token": token, "sync_max_entries": tokens.sync_max_entries });
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

/// A name that leads to this machine may be somebody else's: only its own names are answered.
fn is_asked_here(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_listened_on() {
        for good in ["127.0.0.1:7700", "127.9.9.9:0", "[::1]:7700", "localhost:1"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in ["0.0.0.0:7700", "[::]:7700", "192.168.1.2:7700", "example.org:80", ":80", "localhost.evil.org:1"] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }

    #[test]
    fn tokens_are_given_under_the_machines_own_names_only() {
        for (host, expected) in [
            ("127.0.0.1:7700", true),
            ("localhost", true),
            ("[::1]:80", true),
            ("rebound.example:7700", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a header"));
            assert_eq!(is_asked_here(&headers), expected, "{host}");
        }
    }
}
