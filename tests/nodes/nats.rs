//! A `nats-server` of one test, on a free port of loopback; killed when dropped.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Nats {
    addr: SocketAddr,
    more: &'static [&'static str],
    child: Option<Child>,
}

/// Debian puts it where not everybody looks.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/bin".into()]);
    let found = dirs.map(|dir| dir.join("nats-server")).find(|program| program.is_file());
    found.expect("nats-server is needed (Debian's package nats-server; scripts/test installs it)")
}

impl Nats {
    /// Starts one and waits until it takes connections.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// [`Nats::start`] with more arguments.
    pub fn start_with(more: &'static [&'static str]) -> Self {
        // Another process may take the port in between: then another is tried.
        for _ in 0..10 {
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut nats = Self { addr, more, child: None };
            if nats.try_go_on() {
                return nats;
            }
        }
        panic!("nats-server does not start");
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again on the same port.
    pub fn go_on(&mut self) {
        assert!(self.try_go_on(), "nats-server does not start on {}", self.addr);
    }

    fn try_go_on(&mut self) -> bool {
        let port = self.addr.port().to_string();
        let args = ["--addr", "127.0.0.1", "--port", &port];
        let mut command = Command::new(program());
        let mut child = command.args(args).args(self.more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if TcpStream::connect(self.addr).is_ok() {
                self.child = Some(child);
                return true;
            }
            assert!(Instant::now() < deadline, "nats-server takes no connections on {}", self.addr);
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.stop();
    }
}
