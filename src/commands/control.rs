//! The way to a running server from the same machine: a Unix socket in its data directory.
//!
//! ```text
//! -> backup PATH\n            absolute, on the server's machine
//! -> compact\n                takes erased bodies out of the files
//! <- ok {json}\n | error why\n
//! ```
//!
//! One request a connection, one connection after the other. Who may open the socket is decided by the
//! file system: mode 0600, in a directory only its owner needs to enter. It must not do anything a client
//! of the service could wish for. How it can hurt: whoever can write to it has files written by the server.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use everline::store::embedded::{BackupReport, Embedded};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::Failure;

/// Name of the socket in the data directory.
const SOCKET: &str = "control.sock";
/// A request is one line of at most so many bytes ...
const LINE: u64 = 8 * 1024;
/// ... that must come within this.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// A listening socket; dropping it ends it and removes the file.
pub(super) struct Control {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        // The next server replaces one that stayed.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens in the store's directory. A server runs without, too: then only `backup` of a running server
/// is not possible, and the log says why.
pub(super) fn listen(store: &Arc<Embedded>) -> Option<Control> {
    let path = store.dir().join(SOCKET);
    match bind(&path) {
        Ok(listener) => {
            let task = tokio::spawn(accept(listener, Arc::clone(store)));
            Some(Control { path, task })
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no control socket: no backup while serving");
            None
        }
    }
}

/// Under its name only once nobody else can open it. The directory is locked by the store, so a socket
/// that is there is one left behind.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, store: Arc<Embedded>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = serve(stream, &store).await {
                    tracing::debug!(%error, "control connection ended");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn serve(mut stream: UnixStream, store: &Arc<Embedded>) -> std::io::Result<()> {
    let mut line = String::new();
    let (read, mut write) = stream.split();
    let mut limited = BufReader::new(read.take(LINE));
    timeout(REQUEST_DEADLINE, limited.read_line(&mut line)).await??;
    let line = line.strip_suffix('\n').unwrap_or_default();
    let answer = match line.strip_prefix("backup ") {
        _ if line == "compact" => compact(Arc::clone(store)).await,
        Some(path) if Path::new(path).is_absolute() => backup(PathBuf::from(path), Arc::clone(store)).await,
        _ => Err("not a request".to_owned()),
    };
    let answer = answer.map_or_else(|why| format!("error {why}\n"), |report| format!("ok {report}\n"));
    write.write_all(answer.as_bytes()).await
}

async fn backup(path: PathBuf, store: Arc<Embedded>) -> Result<String, String> {
    tracing::info!(path = %path.display(), "backup asked for");
    let written = tokio::task::spawn_blocking(move || store.backup(&path)).await;
    match written {
        Ok(Ok(report)) => Ok(json(&report).to_string()),
        Ok(Err(error)) => Err(error.to_string().replace('\n', " ")),
        Err(error) => Err(error.to_string()),
    }
}

async fn compact(store: Arc<Embedded>) -> Result<String, String> {
    tracing::info!("compaction asked for");
    match tokio::task::spawn_blocking(move || store.purge()).await {
        Ok(Ok(())) => Ok("{}".to_owned()),
        Ok(Err(error)) => Err(error.to_string().replace('\n', " ")),
        Err(error) => Err(error.to_string()),
    }
}

/// A report as JSON.
pub(super) fn json(report: &BackupReport) -> serde_json::Value {
    let section = |section: &everline::store::embedded::SectionCount| serde_json::json!({ "name": section.name, "keys": section.keys, "bytes": section.bytes });
    let sections: Vec<_> = report.sections.iter().map(section).collect();
    serde_json::json!({ "file_bytes": report.file_bytes, "sections": sections })
}

/// Asks the server that has `dir` open, if there is one, to write a backup to `file` (absolute).
pub(super) fn ask_backup(dir: &Path, file: &Path) -> Result<Option<serde_json::Value>, Failure> {
    let name = file.to_str().filter(|name| !name.contains('\n'));
    let name = name.ok_or_else(|| Failure::Usage("--to: not a name that can be sent".to_owned()))?;
    ask(dir, &format!("backup {name}"))
}

/// Asks the server that has `dir` open, if there is one, to take erased bodies out of its files.
pub(super) fn ask_compact(dir: &Path) -> Result<Option<serde_json::Value>, Failure> {
    ask(dir, "compact")
}

fn ask(dir: &Path, request: &str) -> Result<Option<serde_json::Value>, Failure> {
    let path = dir.join(SOCKET);
    let mut stream = match std::os::unix::net::UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(Failure::Failed(format!("{}: {error}", path.display()))),
    };
    let mut answer = String::new();
    let asked = stream.write_all(format!("{request}\n").as_bytes());
    asked.and_then(|()| stream.read_to_string(&mut answer)).map_err(Failure::failed)?;
    let answer = answer.trim_end();
    if let Some(report) = answer.strip_prefix("ok ") {
        return serde_json::from_str(report).map(Some).map_err(Failure::failed);
    }
    let why = answer.strip_prefix("error ").unwrap_or("the server ended before it was done");
    Err(Failure::Failed(why.to_owned()))
}
