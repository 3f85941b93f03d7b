//! The connection to the database, and what an error from it means.
//!
//! No retries, no speculation: a request is sent once, and its caller decides what an unknown outcome
//! means. Consistency is QUORUM, of conditions SERIAL; never LOCAL_SERIAL beside it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::{Consistency, SerialConsistency};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::OpenError;
use super::routing::FixedReplica;
use crate::config::CqlTarget;
use crate::store::Error;

/// A session with its two profiles.
pub(super) struct Connected {
    pub(super) session: Session,
    /// For conditional statements and batches.
    pub(super) conditional: ExecutionProfileHandle,
}

/// Connects; `timeout` is that of every request.
pub(super) async fn connect(target: &CqlTarget, timeout: Duration) -> Result<Connected, OpenError> {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::Quorum)
        .serial_consistency(Some(SerialConsistency::Serial))
        .request_timeout(Some(timeout))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .speculative_execution_policy(None)
        .build();
    let conditional =
        profile.to_builder().load_balancing_policy(Arc::new(FixedReplica::default())).build().into_handle();
    let mut builder = SessionBuilder::new()
        .known_nodes(&target.hosts)
        .connection_timeout(Duration::from_secs(5))
        .keyspaces_to_fetch([target.keyspace.clone()])
        .default_execution_profile_handle(profile.into_handle());
    if let Some((name, password)) = &target.user {
        builder = builder.user(name, password.expose());
    }
    if let Some(file) = &target.tls {
        builder = builder.tls_context(Some(tls(file)?));
    }
    let session = builder
        .build()
        .await
        .map_err(|error| OpenError::Unreachable { hosts: target.hosts.join(","), why: one_line(&error) })?;
    Ok(Connected { session, conditional })
}

/// TLS that trusts whom the file names, and nobody else.
fn tls(file: &Path) -> Result<Arc<ClientConfig>, OpenError> {
    let wrong = |why: String| OpenError::Tls { file: file.display().to_string(), why };
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let certificates = rustls_pemfile::certs(&mut pem.as_slice()).collect::<Result<Vec<_>, _>>();
    let mut trusted = RootCertStore::empty();
    for certificate in certificates.map_err(|error| wrong(error.to_string()))? {
        trusted.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if trusted.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth()))
}

/// An error's text as one line.
pub(super) fn one_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the database or the driver turned a request down before it could have had any effect.
/// Everything else may have happened, or may happen yet.
pub(super) fn surely_nothing_happened(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => {
            matches!(error, DbError::Invalid | DbError::SyntaxError | DbError::Unauthorized)
        }
        ExecutionError::LastAttemptError(RequestAttemptError::SerializationError(_))
        | ExecutionError::BadQuery(_)
        | ExecutionError::EmptyPlan
        | ExecutionError::ConnectionPoolError(_) => true,
        _ => false,
    }
}

/// A read (or a plain write) that failed.
pub(super) fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(one_line(&error))
}
