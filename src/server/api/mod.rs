//! The server API: what the application's own server may do, over HTTP under `/v1/api`.
//!
//! ```text
//!   key ── permit ── body ──► a route of the table ──► engine ──► JSON, or an error in the protocol's form
//! ```
//!
//! One table of routes (`table::ROUTES`) makes the router and the OpenAPI document, so that neither can
//! say what the other does not. It must not log contents or keys. How it can hurt: whoever holds a key may
//! do everything to everybody, so keys are compared in constant time and without one there is no API at all.

mod call;
mod conversations;
mod messages;
pub mod openapi;
mod problem;
mod table;
mod users;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{RawPathParams, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::Secret;
use crate::engine::Engine;
use crate::protocol::{ErrorCode, ParseLimits};
use call::Call;
use problem::Problem;
use table::{ROUTES, Route};

/// Where the routes are.
pub const PREFIX: &str = "/v1/api";
/// Largest content of a request: bytes. A thousand users and a body fit.
pub const MAX_CONTENT: usize = 128 * 1024;
/// The content must be there after so long.
const CONTENT_DEADLINE: Duration = Duration::from_secs(30);
/// Requests under way at once.
const AT_ONCE: usize = 256;

/// What all requests share.
pub(super) struct Api {
    engine: Engine,
    parse: ParseLimits,
    /// SHA-256 of each key, so that comparing tells nothing of their lengths either.
    keys: Vec<[u8; 32]>,
    permits: Semaphore,
}

impl Api {
    /// `None` without keys: then there is no API.
    pub(super) fn new(engine: Engine, keys: &[Secret], max_body: usize) -> Option<Arc<Self>> {
        let keys: Vec<_> = keys.iter().map(|key| hashed(key.expose())).collect();
        let parse = ParseLimits { max_body };
        let permits = Semaphore::new(AT_ONCE);
        (!keys.is_empty()).then(|| Arc::new(Self { engine, parse, keys, permits }))
    }

    /// All keys are looked at, whichever fits.
    fn knows(&self, key: &str) -> bool {
        let key = hashed(key);
        self.keys.iter().fold(false, |known, each| known | verify_slices_are_equal(each, &key).is_ok())
    }

    async fn serve(self: Arc<Self>, route: &'static Route, path: RawPathParams, request: Request) -> Response {
        match self.answer(route, &path, request).await {
            Ok(text) => json(StatusCode::OK, text),
            Err(problem) => problem.into_response(),
        }
    }

    async fn answer(&self, route: &'static Route, path: &RawPathParams, request: Request) -> Result<String, Problem> {
        if !bearer(request.headers()).is_some_and(|key| self.knows(key)) {
            return Err(Problem::unauthorized());
        }
        let _permit = self.permits.try_acquire().map_err(|_| Problem::code(ErrorCode::Overloaded))?;
        let path = path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let (head, body) = request.into_parts();
        let content = if route.content.is_some() { content(&head.headers, body).await? } else { String::new() };
        let key = head.headers.get("idempotency-key");
        let call = Call::new(path, head.uri.query().unwrap_or_default(), key, content, self.parse)?;
        (route.run)(self.engine.clone(), call).await
    }
}

fn hashed(key: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    hash
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// The content as text. A length that is too large is refused before anything is read.
async fn content(headers: &HeaderMap, body: Body) -> Result<String, Problem> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_CONTENT as u64) {
        return Err(Problem::code(ErrorCode::TooLarge));
    }
    let read = timeout(CONTENT_DEADLINE, to_bytes(body, MAX_CONTENT)).await;
    let bytes = read.map_err(|_| Problem::late())?.map_err(|_| Problem::code(ErrorCode::TooLarge))?;
    String::from_utf8(bytes.into()).map_err(|_| Problem::code(ErrorCode::BadJson))
}

fn json(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The routes of the table, under their prefix.
pub(super) fn router(api: &Arc<Api>) -> Router {
    let mut router = Router::new().route("/openapi.json", axum::routing::get(async || document()));
    for path in table::paths() {
        let mut methods = MethodRouter::new();
        for route in ROUTES.iter().filter(|route| route.path == path) {
            let api = Arc::clone(api);
            methods = methods.on(filter(&route.method), move |params: RawPathParams, request: Request| {
                Arc::clone(&api).serve(route, params, request)
            });
        }
        router = router.route(path, methods.fallback(async || Problem::method()));
    }
    let under = router.fallback(async || Problem::code(ErrorCode::NotFound));
    Router::new().nest(PREFIX, under)
}

fn document() -> Response {
    json(StatusCode::OK, openapi::document().to_string())
}

fn filter(method: &Method) -> MethodFilter {
    match *method {
        Method::POST => MethodFilter::POST,
        Method::PATCH => MethodFilter::PATCH,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}
