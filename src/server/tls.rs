//! TLS from two PEM files. Read once, at the start.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::Error;
use crate::config::TlsFiles;

/// An acceptor for these files.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, Error> {
    let wrong = |path: &Path, why: &dyn std::fmt::Display| Error::Tls(format!("{}: {why}", path.display()));
    let read = |path: &Path| fs::read(path).map_err(|error| wrong(path, &error));
    let chain = rustls_pemfile::certs(&mut read(&files.cert)?.as_slice())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(&files.cert, &error))?;
    if chain.is_empty() {
        return Err(wrong(&files.cert, &"holds no certificate"));
    }
    let key = rustls_pemfile::private_key(&mut read(&files.key)?.as_slice())
        .map_err(|error| wrong(&files.key, &error))?
        .ok_or_else(|| wrong(&files.key, &"holds no private key"))?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&files.cert, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
