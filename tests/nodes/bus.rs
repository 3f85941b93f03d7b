//! The bus over a real NATS server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everline::bus::nats::Error;
use everline::bus::{self, Bus, Hear, Identity, Note, Subject, Subscription};
use everline::protocol::{ConvId, UserId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::nats::Nats;

/// Nothing takes so long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(30);

async fn node(nats: &Nats, node: u64, epoch: &'static str) -> Arc<dyn Bus> {
    let identity = Identity { node, epoch: Arc::new(move || epoch.to_owned()) };
    bus::nats::connect(&nats.url(), identity).await.unwrap()
}

/// What is heard of a subject, once the subscription stands.
async fn listen(bus: &Arc<dyn Bus>, subject: &Subject) -> (Subscription, mpsc::UnboundedReceiver<(u64, Note)>) {
    let (heard, notes) = mpsc::unbounded_channel();
    let hear: Hear = Arc::new(move |node, note| drop(heard.send((node, note))));
    let subscription = bus.subscribe(subject, hear);
    assert!(subscription.stands().wait(PATIENCE).await, "the subscription stands");
    (subscription, notes)
}

async fn next(notes: &mut mpsc::UnboundedReceiver<(u64, Note)>) -> (u64, Note) {
    timeout(PATIENCE, notes.recv()).await.expect("a note in time").unwrap()
}

fn user(id: &str) -> Subject {
    Subject::User(UserId::parse(id).unwrap())
}

#[tokio::test]
async fn what_is_published_once_a_subscription_stands_is_heard_by_others_in_order() {
    let nats = Nats::start();
    let (a, b, other_data) = (node(&nats, 1, "e").await, node(&nats, 2, "e").await, node(&nats, 3, "f").await);
    let subjects = [user("a.b@c-d_e"), Subject::Conversation(ConvId::parse("g:town.1").unwrap()), Subject::Node(2)];
    for subject in subjects {
        let (_listening, mut notes) = listen(&b, &subject).await;
        let (_own, mut own) = listen(&a, &subject).await;
        other_data.publish(&subject, &Note::Moved { head: 99 });
        b.publish(&user("a"), &Note::Moved { head: 98 });
        for head in 1..=100 {
            a.publish(&subject, &Note::Moved { head });
        }
        let opaque = Note::Other { kind: 7, payload: Bytes::from_static(b"typing") };
        a.publish(&subject, &opaque);
        for head in 1..=100 {
            assert_eq!(next(&mut notes).await, (1, Note::Moved { head }));
        }
        assert_eq!(next(&mut notes).await, (1, opaque));
        assert!(own.try_recv().is_err(), "a node does not hear itself");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_from_an_address_that_is_wrong() {
    let connect = async |address: String| {
        let identity = Identity { node: 1, epoch: Arc::new(String::new) };
        bus::nats::connect(&address, identity).await.map(drop)
    };
    let mut nats = Nats::start_with(&["--user", "everline", "--pass", "secret"]);
    assert!(matches!(connect(nats.url()).await, Err(Error::Address { .. })), "no password");
    let with = |password: &str| nats.url().replace("nats://", &format!("nats://everline:{password}@"));
    let refused = connect(with("wrong")).await.unwrap_err();
    assert!(matches!(refused, Error::Address { .. }) && !refused.to_string().contains("wrong"), "{refused}");
    connect(with("secret")).await.unwrap();
    nats.stop();
    assert!(matches!(connect(nats.url()).await, Err(Error::Unreachable { .. })), "nobody there");
    assert!(matches!(connect("nats://127.0.0.1:no".to_owned()).await, Err(Error::Address { .. })), "no port");
}

#[tokio::test]
async fn a_dropped_subscription_hears_nothing_more() {
    let nats = Nats::start();
    let (a, b) = (node(&nats, 1, "e").await, node(&nats, 2, "e").await);
    let (first, mut gone) = listen(&b, &user("alice")).await;
    drop(first);
    let (_second, mut notes) = listen(&b, &user("alice")).await;
    a.publish(&user("alice"), &Note::Moved { head: 1 });
    assert_eq!(next(&mut notes).await, (1, Note::Moved { head: 1 }));
    assert!(timeout(PATIENCE, gone.recv()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_server_that_goes_and_comes_is_noticed_and_found_again() {
    let mut nats = Nats::start();
    let (a, b) = (node(&nats, 1, "e").await, node(&nats, 2, "e").await);
    let (_listening, mut notes) = listen(&b, &user("alice")).await;
    nats.stop();
    until(&a, false).await;
    until(&b, false).await;
    // Dropped, not kept; and nobody waits.
    let began = Instant::now();
    for head in 1..=20_000 {
        a.publish(&user("alice"), &Note::Moved { head });
    }
    assert!(began.elapsed() < PATIENCE);
    let (heard, _never) = mpsc::unbounded_channel();
    let unheard = b.subscribe(&user("bob"), Arc::new(move |node, note| drop(heard.send((node, note)))));
    assert!(!unheard.stands().wait(Duration::from_millis(20)).await, "nobody can say that it stands");
    nats.go_on();
    until(&a, true).await;
    until(&b, true).await;
    // It has subscribed anew once something is heard; until then notes may be lost.
    let deadline = Instant::now() + PATIENCE;
    let mut head = 100_000;
    while notes.is_empty() {
        head += 1;
        a.publish(&user("alice"), &Note::Moved { head });
        sleep(Duration::from_millis(10)).await;
        assert!(Instant::now() < deadline, "not subscribed anew");
    }
    assert!(matches!(next(&mut notes).await, (1, Note::Moved { head }) if head > 100_000), "what was stale is gone");
    assert!(unheard.stands().wait(PATIENCE).await, "what was wished for meanwhile stands as well");
}

async fn until(bus: &Arc<dyn Bus>, usable: bool) {
    let deadline = Instant::now() + PATIENCE;
    while bus.is_usable() != usable {
        assert!(Instant::now() < deadline, "usable is not {usable}");
        sleep(Duration::from_millis(5)).await;
    }
}
