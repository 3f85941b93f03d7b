//! The server under test as a child process: start, kill, restart, stop, and what `/proc` says of it.
//!
//! Knows the server's command line (design section 10) and its two plain HTTP pages, nothing of the
//! protocol. The data directory and the log are kept when a run fails, so that it can be looked into.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a server may take from its start until `/readyz` says yes, recovery included.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a drain after SIGTERM may take.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Below the ports the kernel gives to outgoing connections: a reconnecting client can then neither
/// take the server's port while it is down nor connect to itself.
const PORTS: std::ops::Range<u16> = 18_000..32_000;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The `everline` binary.
    pub(crate) bin: PathBuf,
    /// Kept after the run; a temporary directory when absent.
    pub(crate) data: Option<PathBuf>,
    /// HS256 secret, handed over by environment.
    pub(crate) secret: String,
    /// More flags for `serve`; a flag given here replaces the default of the same name.
    pub(crate) extra: Vec<String>,
}

/// A running server. Dropping it kills the process.
pub(crate) struct Server {
    options: Options,
    home: Home,
    addr: SocketAddr,
    child: Child,
}

/// Where data and log live.
enum Home {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(path) => path,
        }
    }
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub(crate) async fn start(options: Options) -> Result<Self> {
        ensure!(
            options.bin.is_file(),
            "no server binary at {}: build it (cargo build --release --bin everline), give --server-bin, \
             or --connect to a running one",
            options.bin.display()
        );
        let home = match &options.data {
            Some(path) => {
                std::fs::create_dir_all(path).with_context(|| format!("--data {}", path.display()))?;
                Home::Kept(path.clone())
            }
            None => Home::Temporary(tempfile::Builder::new().prefix("everline-load-").tempdir()?),
        };
        let addr = free_address()?;
        let child = spawn(&options, home.path(), addr)?;
        let mut server = Self { options, home, addr, child };
        server.wait_ready().await?;
        Ok(server)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, and waits for the corpse.
    pub(crate) async fn kill9(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server was gone before the kill: {status}\n{}", self.log_tail());
        }
        self.child.kill().await.context("kill -9 of the server")
    }

    /// The same data, the same port, a new process. Kills the old one if it still runs.
    pub(crate) async fn restart(&mut self) -> Result<Duration> {
        if self.child.try_wait()?.is_none() {
            self.child.kill().await?;
        }
        let began = Instant::now();
        self.child = spawn(&self.options, self.home.path(), self.addr)?;
        self.wait_ready().await?;
        Ok(began.elapsed())
    }

    /// A new process on the same data, not waited for. The old one must be dead.
    pub(crate) fn spawn_again(&mut self) -> Result<()> {
        self.child = spawn(&self.options, self.home.path(), self.addr)?;
        Ok(())
    }

    /// Lets `everline verify` compare the data of the stopped server with itself.
    pub(crate) async fn verify(&self) -> Result<()> {
        let mut command = Command::new(&self.options.bin);
        command.arg("verify").args(["--store", &store(self.home.path())]).current_dir(self.home.path());
        let output = command.output().await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "verify: {}\n{}", text(&output.stderr), text(&output.stdout));
        Ok(())
    }

    /// SIGTERM; the drain must end with exit status 0.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(id) = self.child.id() else {
            bail!("the server ended by itself during the run\n{}", self.log_tail());
        };
        signal(id, rustix::process::Signal::TERM)?;
        match timeout(STOP_DEADLINE, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(status.success(), "the server answered SIGTERM with {status}\n{}", self.log_tail());
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!("the server did not end within {STOP_DEADLINE:?} of SIGTERM\n{}", self.log_tail())
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, what: rustix::process::Signal) -> Result<()> {
        signal(self.child.id().context("the server is gone")?, what)
    }

    /// A counter of `/metrics`, summed over its labels.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64> {
        let (_, text) = get(self.addr, "/metrics").await?;
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let lines = lines.filter(|rest| rest.starts_with([' ', '{']));
        Ok(lines.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
    }

    /// What data and log take of the disk.
    pub(crate) fn bytes_on_disk(&self) -> Result<u64> {
        bytes_below(self.home.path()).context("data directory")
    }

    /// Keeps data and log; says where they are.
    pub(crate) fn keep(self) -> PathBuf {
        match self.home {
            Home::Temporary(dir) => dir.keep(),
            Home::Kept(path) => path,
        }
    }

    /// The last lines of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read(log_path(self.home.path())).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        format!("end of the server's log:\n  {}", tail.join("\n  "))
    }

    /// Sum of the number `field` over all lines of the log that hold `text`.
    pub(crate) fn logged(&self, text: &str, field: &str) -> u64 {
        let log = std::fs::read(log_path(self.home.path())).unwrap_or_default();
        logged(&String::from_utf8_lossy(&log), text, field)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        let mut last = String::from("no answer yet");
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended before it was ready: {status}\n{}", self.log_tail());
            }
            match get(self.addr, "/readyz").await {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => last = format!("status {status}: {}", body.trim()),
                Err(error) => last = format!("{error:#}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
        bail!("/readyz of {} not 200 within {READY_DEADLINE:?}; last: {last}\n{}", self.addr, self.log_tail())
    }
}

fn signal(id: u32, what: rustix::process::Signal) -> Result<()> {
    let pid = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.context("the server has no pid")?, what).context("signal to the server")
}

fn log_path(home: &Path) -> PathBuf {
    home.join("server.log")
}

fn store(home: &Path) -> String {
    format!("embedded:{}", home.join("data").display())
}

fn spawn(options: &Options, home: &Path, addr: SocketAddr) -> Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(log_path(home))?;
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,everline::server=info".into());
    Command::new(&options.bin)
        .arg("serve")
        .args(serve_flags(options, home, addr))
        .env("EVERLINE_JWT_SECRET", &options.secret)
        .env("RUST_LOG", level)
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", options.bin.display()))
}

/// `serve` with the limits off, except what `extra` says otherwise.
fn serve_flags(options: &Options, home: &Path, addr: SocketAddr) -> Vec<String> {
    let defaults = [
        ("--listen", addr.to_string()),
        ("--store", store(home)),
        ("--rate-messages", "0".into()),
        ("--rate-requests", "0".into()),
        ("--rate-connects", "0".into()),
        ("--max-connections", "200000".into()),
    ];
    let named = |flag: &str| options.extra.iter().any(|e| e == flag || e.starts_with(&format!("{flag}=")));
    let mut flags = Vec::new();
    for (flag, value) in defaults {
        if !named(flag) {
            flags.extend([flag.to_owned(), value]);
        }
    }
    flags.extend(options.extra.iter().cloned());
    flags
}

pub(crate) fn free_address() -> Result<SocketAddr> {
    let mut random = rand::rngs::StdRng::from_os_rng();
    for _ in 0..100 {
        let addr = SocketAddr::from(([127, 0, 0, 1], random.random_range(PORTS)));
        if std::net::TcpListener::bind(addr).is_ok() {
            return Ok(addr);
        }
    }
    bail!("no free port in {PORTS:?}")
}

/// A plain `GET`; status and body.
pub(crate) async fn get(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = timeout(Duration::from_secs(5), exchange).await.context("no answer in 5 s")??;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.with_context(|| format!("{path}: not HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time, microseconds.
    pub(crate) cpu_us: u64,
    /// Bytes the process caused to be written to storage.
    pub(crate) written: u64,
    /// Anonymous memory: bytes.
    pub(crate) anonymous: u64,
}

impl Usage {
    /// Of a process by id; of this one with `None`.
    pub(crate) fn of(pid: Option<u32>) -> Result<Self> {
        let dir = pid.map_or_else(|| "/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
        let read = |name: &str| {
            let path = format!("{dir}/{name}");
            std::fs::read_to_string(&path).with_context(|| path)
        };
        let (stat, status) = (read("stat")?, read("status")?);
        // Another user's `io` may be unreadable; the rest is still worth having.
        let io = read("io").unwrap_or_default();
        let ticks = cpu_ticks(&stat).with_context(|| format!("{dir}/stat"))?;
        Ok(Self {
            cpu_us: ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1),
            written: field(&io, "write_bytes:").unwrap_or_default(),
            anonymous: field(&status, "RssAnon:").unwrap_or_default() * 1024,
        })
    }
}

/// What all files below a directory take of the disk; some are allocated ahead.
fn bytes_below(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for found in std::fs::read_dir(dir)? {
        // A file may go while it is looked at.
        let Ok(found) = found.and_then(|found| Ok((found.metadata()?, found.path()))) else { continue };
        sum += if found.0.is_dir() { bytes_below(&found.1)? } else { found.0.blocks() * 512 };
    }
    Ok(sum)
}

/// `utime` + `stime` of a stat line; the name in parentheses may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `field=5` or `"field":5`, with or without colours around the `=`.
fn logged(log: &str, text: &str, field: &str) -> u64 {
    let lines = log.lines().filter(|line| line.contains(text));
    let numbers = lines.filter_map(|line| {
        let (_, behind) = line.rsplit_once(field)?;
        let plain = behind.replace("\u{1b}[0m", "").replace("\u{1b}[2m", "");
        let digits = plain.trim_start_matches(['"', ':', '=', ' ']);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits.get(..end)?.parse::<u64>().ok()
    });
    numbers.sum()
}

/// The number behind `name` in a `/proc` table.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_parentheses_is_no_obstacle() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 10 0 0 0 30 12 0 0 20 0 4 0 100";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (short) S 1"), None);
        assert_eq!(field("rchar: 1\nwrite_bytes: 4096\n", "write_bytes:"), Some(4096));
        assert_eq!(field("RssAnon:\t  812 kB\n", "RssAnon:"), Some(812));
    }

    #[test]
    fn numbers_are_found_in_each_form_of_log() {
        let log = "INFO left undone conversations=3\nINFO other conversations=9\n\
            INFO left undone \u{1b}[3mconversations\u{1b}[0m\u{1b}[2m=\u{1b}[0m4\n{\"message\":\"left undone\",\"conversations\":5}";
        assert_eq!(logged(log, "left undone", "conversations"), 12);
    }

    #[test]
    fn a_given_flag_replaces_the_default_of_its_name() {
        let options = Options {
            bin: "everline".into(),
            data: None,
            secret: String::new(),
            extra: vec!["--rate-messages=5".into(), "--sync-max-entries".into(), "200".into()],
        };
        let flags = serve_flags(&options, Path::new("/x"), SocketAddr::from(([127, 0, 0, 1], 1)));
        assert!(!flags.iter().any(|f| f == "--rate-messages"));
        assert!(flags.iter().any(|f| f == "--rate-requests"));
        assert!(flags.ends_with(&["--rate-messages=5".into(), "--sync-max-entries".into(), "200".into()]));
    }

    #[test]
    fn this_process_has_used_something() {
        assert!(Usage::of(None).is_ok_and(|usage| usage.anonymous > 0));
    }
}
