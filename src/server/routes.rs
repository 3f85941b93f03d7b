//! What is served over plain HTTP on the one port.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tokio::time::timeout;

use super::{House, Peer, api, metrics, upgrade};
use crate::protocol::{UserId, WS_PATH};
use crate::store::TimelineId;

/// The store must answer a readiness check within this.
const READY_DEADLINE: Duration = Duration::from_secs(2);
/// Whose head is read for it: nobody's, so nothing is ever written there.
const READY_USER: &str = ".readyz";

/// All routes; `page` is what `/` shows.
pub(super) fn router(house: Arc<House>, page: Router) -> Router {
    let routes = Router::new()
        .route(WS_PATH, get(upgrade::websocket))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready));
    let routes = if house.metrics_apart { routes } else { routes.route("/metrics", get(local_metrics)) };
    let api = house.api.as_ref().map_or_else(Router::new, api::router);
    routes.with_state(house).merge(api).merge(page)
}

/// The page an ordinary server shows. `demo` brings another.
pub fn page() -> Router {
    Router::new().route("/", get(async || Html(include_str!("page/index.html"))))
}

/// Metrics for a listener of their own.
pub(super) fn metrics_router(house: Arc<House>) -> Router {
    Router::new().route("/metrics", get(all_metrics)).with_state(house)
}

async fn ready(State(house): State<Arc<House>>) -> (StatusCode, &'static str) {
    if house.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    let Ok(user) = UserId::parse(READY_USER) else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "\n");
    };
    let why = match timeout(READY_DEADLINE, house.store.head(&TimelineId::User(user))).await {
        Ok(Ok(_)) if !house.hub.bus().is_usable() => "bus unavailable\n",
        Ok(Ok(_)) if !house.engine.is_renewed() => "other nodes do not know that this one is alive\n",
        Ok(Ok(_)) if house.engine.is_behind() => "this machine's clock is over a minute behind\n",
        Ok(Ok(_)) => return (StatusCode::OK, "ready\n"),
        _ => "store unavailable\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

/// On the public port only for who is on this machine, and not for a proxy there that passes on others.
async fn local_metrics(
    state: State<Arc<House>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
) -> axum::response::Response {
    let forwarded = headers.contains_key("x-forwarded-for") || headers.contains_key(header::FORWARDED);
    if !peer.ip().to_canonical().is_loopback() || forwarded {
        return StatusCode::FORBIDDEN.into_response();
    }
    all_metrics(state).await.into_response()
}

async fn all_metrics(State(house): State<Arc<House>>) -> impl IntoResponse {
    if let Some(observe) = &house.observe {
        observe();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&house.hub))
}
