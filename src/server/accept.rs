//! The accept loop: from a TCP connection to HTTP.
//!
//! Each connection is a task. Before anything of it is read it must fit: its address may not connect too
//! fast, and only so many connections may be in HTTP at a time; their heads have a deadline. How it can
//! hurt: a loop that ends on an error (out of file descriptors) would leave a living process that nobody
//! can reach, so it pauses and goes on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::wire::Wire;
use super::{House, Peer};

/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);
/// Largest request head.
const MAX_HEAD: usize = 32 * 1024;

/// Accepts until the server stops.
pub(super) async fn accept(house: Arc<House>, listener: TcpListener, router: Router, tls: Option<TlsAcceptor>) {
    // Those being upgraded leave it again, so it only has to be large enough for a rush.
    let heads = Arc::new(Semaphore::new(house.max_connections.clamp(64, Semaphore::MAX_PERMITS)));
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = house.stopping.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    sleep(PAUSE).await;
                    continue;
                }
            },
        };
        if !house.addresses.is_proxy(peer.ip()) && !house.addresses.arrives(peer.ip(), Instant::now()) {
            refuse(stream, StatusCode::TOO_MANY_REQUESTS, tls.is_some());
            continue;
        }
        let Ok(permit) = Arc::clone(&heads).try_acquire_owned() else {
            refuse(stream, StatusCode::SERVICE_UNAVAILABLE, tls.is_some());
            continue;
        };
        // Frames are gathered before they are written: waiting for more would only cost time.
        let _ = stream.set_nodelay(true);
        let (tls, router, served) = (tls.clone(), router.clone(), Arc::clone(&house));
        house.tracker.spawn(async move {
            if let Some(wire) = secured(stream, tls, served.upgrade_deadline).await {
                serve(&served, wire, peer, router).await;
            }
            drop(permit);
        });
    }
}

/// Answers without reading; under TLS there is nobody to talk to yet.
fn refuse(stream: TcpStream, status: StatusCode, tls: bool) {
    tracing::debug!(status = status.as_u16(), "connection refused");
    if !tls {
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n");
        // A new socket has room for this; if not, it is simply closed.
        let _ = stream.try_write(head.as_bytes());
        tokio::spawn(async move {
            // Bytes left unread would make the kernel reset the connection and lose the answer.
            let mut stream = stream;
            let mut trash = [0_u8; 1024];
            let _ = stream.shutdown().await;
            let _ = timeout(PAUSE, tokio::io::AsyncReadExt::read(&mut stream, &mut trash)).await;
        });
    }
}

async fn secured(stream: TcpStream, tls: Option<TlsAcceptor>, deadline: Duration) -> Option<Wire> {
    let Some(tls) = tls else { return Some(Wire::Plain(stream)) };
    match timeout(deadline, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(Wire::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "no TLS");
            None
        }
        Err(_) => None,
    }
}

/// HTTP/1.1 on one connection, until it is upgraded or closed.
async fn serve(house: &House, wire: Wire, peer: SocketAddr, router: Router) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let answer = router.clone().oneshot(request.map(Body::new));
        async move { answer.await.map_err(|never: Infallible| never) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(house.upgrade_deadline)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = house.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection ended");
    }
}
