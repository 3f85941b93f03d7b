//! From an HTTP request to a session: `GET /v1/ws`.
//!
//! The handshake is judged here and nowhere else; tokens are not (that is `hello`'s). The session gets
//! the bare stream in a task of its own, so that nothing of HTTP stays in memory.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::wire::Wire;
use super::{House, Peer};
use crate::protocol::SUBPROTOCOL;
use crate::session;

/// An answer that is not an upgrade.
struct Refused(StatusCode, &'static str);

/// The handler.
pub(super) async fn websocket(
    State(house): State<Arc<House>>,
    Extension(Peer(peer)): Extension<Peer>,
    mut request: Request<Body>,
) -> Response<Body> {
    match judge(&house, peer, &mut request) {
        Ok(Accepted { key, on_upgrade, guest }) => {
            let begin = begin(Arc::clone(&house), on_upgrade, guest);
            house.tracker.spawn(begin);
            switching(&key)
        }
        Err(Refused(status, why)) => {
            tracing::debug!(%peer, status = status.as_u16(), why, "upgrade refused");
            let mut response = Response::new(Body::from(format!("{why}\n")));
            *response.status_mut() = status;
            if status == StatusCode::UPGRADE_REQUIRED {
                let headers = response.headers_mut();
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            response
        }
    }
}

struct Accepted {
    key: HeaderValue,
    on_upgrade: OnUpgrade,
    guest: Guest,
}

/// What a session needs beside its stream.
struct Guest {
    bearer: Option<String>,
    places: super::Places,
}

fn judge(house: &Arc<House>, peer: std::net::SocketAddr, request: &mut Request<Body>) -> Result<Accepted, Refused> {
    let headers = request.headers();
    let upgrades =
        has_token(headers, header::CONNECTION, "upgrade") && has_token(headers, header::UPGRADE, "websocket");
    if !upgrades || request.version() != Version::HTTP_11 {
        return Err(Refused(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refused(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 only"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)).cloned();
    let key = key.ok_or(Refused(StatusCode::BAD_REQUEST, "no valid Sec-WebSocket-Key"))?;
    if !has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(Refused(StatusCode::BAD_REQUEST, "the subprotocol must be everline.v1.json"));
    }
    if !origin_allowed(headers, &house.allow_origin) {
        return Err(Refused(StatusCode::FORBIDDEN, "origin not allowed"));
    }
    if house.stopping.is_cancelled() {
        return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
    }
    let address = house.addresses.client(peer.ip(), headers);
    let now = Instant::now();
    if house.addresses.is_proxy(peer.ip()) && !house.addresses.arrives(address, now) {
        return Err(Refused(StatusCode::TOO_MANY_REQUESTS, "connecting too fast"));
    }
    let places = house.places(address, now).ok_or(Refused(StatusCode::SERVICE_UNAVAILABLE, "too many connections"))?;
    let bearer = bearer(headers);
    let on_upgrade = hyper::upgrade::on(request);
    Ok(Accepted { key, on_upgrade, guest: Guest { bearer, places } })
}

/// Waits for the stream and hands it to a session.
async fn begin(house: Arc<House>, on_upgrade: OnUpgrade, guest: Guest) {
    let upgraded = match timeout(house.upgrade_deadline, on_upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return tracing::debug!(%error, "upgrade failed"),
        Err(_) => return tracing::debug!("upgrade not completed in time"),
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<Wire>>() else {
        return tracing::error!("an upgraded stream of an unknown kind");
    };
    let Guest { bearer, places } = guest;
    let (stream, rest) = (parts.io.into_inner(), parts.read_buf.to_vec());
    let served = session::serve(Arc::clone(&house.sessions), stream, rest, bearer);
    house.tracker.spawn(async move {
        served.await;
        drop(places);
    });
}

fn switching(key: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Whether a header that is a list names this token, whatever the case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// 16 bytes in base64.
fn is_key(key: &HeaderValue) -> bool {
    let Some(digits) = key.as_bytes().strip_suffix(b"==") else { return false };
    digits.len() == 22 && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// The token of an `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// Browsers always send an `Origin`; who sends none is no browser, and no page can ride on its rights.
fn origin_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str().map(str::to_ascii_lowercase) else { return false };
    if !allowed.is_empty() {
        return allowed.contains(&origin);
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| is_same_origin(&origin, &host.to_ascii_lowercase()))
}

/// Compares host and port; the scheme's own port may be left out. The scheme itself cannot be compared:
/// behind a proxy we do not know ours.
fn is_same_origin(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_owned();
    bare(authority) == bare(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_origin_is_host_and_port() {
        for (origin, host) in [
            ("http://a.example", "a.example"),
            ("http://a.example", "a.example:80"),
            ("https://a.example", "a.example:443"),
            ("http://127.0.0.1:7700", "127.0.0.1:7700"),
            ("http://[::1]:7700", "[::1]:7700"),
        ] {
            assert!(is_same_origin(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://b.example", "a.example"),
            ("http://a.example:81", "a.example"),
            ("http://a.example", "a.example:81"),
            ("null", "a.example"),
            ("file://a.example", "a.example"),
        ] {
            assert!(!is_same_origin(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        let valid = |key: &'static str| is_key(&HeaderValue::from_static(key));
        assert!(valid("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(!valid("") && !valid("dGhlIHNhbXBsZSBub25jZQ") && !valid("dGhlIHNhbXBsZQ=="));
    }
}
