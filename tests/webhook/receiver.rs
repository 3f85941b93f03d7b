//! The application's server: it checks every signature and remembers what it was told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use everline::webhook::signature;
use serde_json::Value;
use tokio::runtime::Runtime;

pub(crate) const SECRET: &str = "of the webhook tests";
/// Nothing takes so long, unless it never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(50);

/// How the receiver treats a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    /// 500, after having seen it.
    Fails,
    /// 302 to another path.
    Redirects,
    /// Never answers.
    Hangs,
    /// 200 with a body that never ends.
    Babbles,
}

/// What was heard, over all lives of the receiver.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Every event of a request that was signed rightly, in order of arrival, doubles included.
    pub(crate) events: Vec<Value>,
    pub(crate) forged: usize,
    /// Requests to another path than the right one.
    pub(crate) astray: usize,
    pub(crate) requests: usize,
}

impl Heard {
    /// The numbers of `message.sent` of each conversation, doubles left out, in the order they came first.
    pub(crate) fn sent(&self) -> HashMap<String, Vec<u64>> {
        let mut found: HashMap<String, Vec<u64>> = HashMap::new();
        let mut known = std::collections::HashSet::new();
        for event in self.events.iter().filter(|event| event["type"] == "message.sent") {
            let message = &event["message"];
            let (conv, seq) = (message["conv_id"].as_str().unwrap(), message["conv_seq"].as_u64().unwrap());
            assert_eq!(event["id"], format!("{conv}/{seq}"));
            if known.insert((conv.to_owned(), seq)) {
                found.entry(conv.to_owned()).or_default().push(seq);
            }
        }
        found
    }

    pub(crate) fn of(&self, kind: &str) -> Vec<Value> {
        self.events.iter().filter(|event| event["type"] == kind).cloned().collect()
    }
}

/// A receiver that can die and come back on the same port.
pub(crate) struct Receiver {
    heard: Arc<Mutex<Heard>>,
    manner: Arc<Mutex<Manner>>,
    port: u16,
    life: Option<Runtime>,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut this = Self { heard: Arc::default(), manner: Arc::new(Mutex::new(Manner::Good)), port, life: None };
        this.live(listener);
        this
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// All its connections are cut, whatever is under way.
    pub(crate) fn die(&mut self) {
        if let Some(life) = self.life.take() {
            life.shutdown_background();
        }
    }

    pub(crate) fn rise(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Its former life may hold the port for a moment.
            match std::net::TcpListener::bind(("127.0.0.1", self.port)) {
                Ok(listener) => return self.live(listener),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn live(&mut self, listener: std::net::TcpListener) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (heard, manner) = (Arc::clone(&self.heard), Arc::clone(&self.manner));
        let app = Router::new().fallback(async move |uri: Uri, headers: HeaderMap, body: Bytes| {
            let manner = *manner.lock().unwrap();
            take(&heard, &uri, &headers, &body);
            answer(manner).await
        });
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
        self.life = Some(runtime);
    }

    /// Waits until what was heard is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Heard) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.heard()) {
            assert!(Instant::now() < deadline, "not heard in time: {} events", self.heard().events.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.die();
    }
}

fn take(heard: &Mutex<Heard>, uri: &Uri, headers: &HeaderMap, body: &[u8]) {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    let good = header("everline-signature") == signature(SECRET, header("everline-timestamp"), body);
    let mut heard = heard.lock().unwrap();
    heard.requests += 1;
    heard.forged += usize::from(!good);
    heard.astray += usize::from(uri.path() != "/hook");
    let events: Value = serde_json::from_slice(body).unwrap();
    heard.events.extend(events["events"].as_array().unwrap().iter().cloned());
}

async fn answer(manner: Manner) -> Response<Body> {
    let answer = Response::builder();
    match manner {
        Manner::Good => answer.body(Body::empty()),
        Manner::Fails => answer.status(StatusCode::INTERNAL_SERVER_ERROR).body(Body::from("no")),
        Manner::Redirects => answer.status(StatusCode::FOUND).header("location", "/elsewhere").body(Body::empty()),
        Manner::Hangs => std::future::pending().await,
        Manner::Babbles => {
            let chunk = || Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 8192]));
            answer.body(Body::from_stream(futures::stream::repeat_with(chunk)))
        }
    }
    .unwrap()
}
