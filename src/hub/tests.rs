//! The promises of the hub.

use std::future::poll_fn;

use std::time::Duration;

use futures::FutureExt;

use super::*;
use crate::bus::{Exchange, Identity, MAX_NOTE};

const PATIENCE: Duration = Duration::from_secs(5);

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user")
}

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).expect("a device")
}

fn live(seqs: std::ops::RangeInclusive<u64>) -> Vec<Live> {
    seqs.map(|seq| Live { seq, text: Some(Arc::from("x")), changes_earlier: false }).collect()
}

fn signalled(seat: &Registration) -> bool {
    poll_fn(|cx| seat.poll_signal(cx)).now_or_never().is_some()
}

fn taken(seat: &Registration) -> (Signal, Vec<u64>) {
    let mut batch = Vec::new();
    let signal = seat.take(&mut batch);
    (signal, batch.iter().map(|entry| entry.seq).collect())
}

#[test]
fn a_registration_is_undone_by_drop() {
    let hub = Arc::new(Hub::default());
    let (alice, phone) = (user("alice"), device("phone"));
    let seat = hub.register(&alice, &phone);
    assert!(hub.has(&alice) && hub.is_connected(&alice, &phone) && hub.sessions() == 1);
    assert!(!hub.is_connected(&alice, &device("tablet")));
    drop(seat);
    assert!(!hub.has(&alice) && !hub.is_connected(&alice, &phone) && hub.sessions() == 0);
    assert!(hub.users.is_empty());
}

#[test]
fn every_device_of_a_user_gets_every_entry_in_order() {
    let hub = Arc::new(Hub::default());
    let seats = [hub.register(&user("alice"), &device("a")), hub.register(&user("alice"), &device("b"))];
    let other = hub.register(&user("bob"), &device("a"));
    for seat in seats.iter().chain([&other]) {
        assert!(seat.follow(0));
        assert!(!signalled(seat));
    }
    hub.push(&user("alice"), &live(1..=2));
    hub.push(&user("alice"), &live(3..=3));
    for seat in &seats {
        assert!(signalled(seat));
        assert_eq!(taken(seat), (Signal::Entries, vec![1, 2, 3]));
        assert!(!signalled(seat));
    }
    assert!(!signalled(&other));
    assert_eq!(hub.deliveries(), 6);
}

#[test]
fn what_is_pushed_between_registering_and_following_is_not_missed() {
    let hub = Arc::new(Hub::default());
    let seat = hub.register(&user("alice"), &device("a"));
    hub.push(&user("alice"), &live(1..=7));
    assert!(!signalled(&seat), "a session that reads its log is left in peace");
    assert!(!seat.follow(5), "6 and 7 must be read first");
    assert!(seat.follow(7));
    hub.push(&user("alice"), &live(8..=8));
    assert_eq!(taken(&seat), (Signal::Entries, vec![8]));
}

#[test]
fn a_full_queue_sends_the_session_back_to_its_log_and_holds_nothing() {
    let hub = Arc::new(Hub::default());
    let seat = hub.register(&user("alice"), &device("a"));
    assert!(seat.follow(0));
    let bound = QUEUE_BOUND as u64;
    hub.push(&user("alice"), &live(1..=bound));
    hub.push(&user("alice"), &live(bound + 1..=bound + 1));
    hub.push(&user("alice"), &live(bound + 2..=bound + 9));
    assert_eq!(seat.room(), 0);
    assert_eq!(taken(&seat), (Signal::Behind, vec![]));
    assert_eq!(seat.newest(), bound + 9);
    assert_eq!(hub.overflows(), 1);
    assert!(seat.follow(bound + 9));
}

#[test]
fn a_newer_session_of_a_device_replaces_the_older_one() {
    let hub = Arc::new(Hub::default());
    let (alice, phone) = (user("alice"), device("phone"));
    let older = hub.register(&alice, &phone);
    assert!(older.follow(0));
    let newer = hub.register(&alice, &phone);
    assert!(newer.follow(0));
    hub.push(&alice, &live(1..=1));
    assert_eq!(taken(&older), (Signal::Close(CloseCode::Replaced), vec![]));
    drop(older);
    assert!(hub.is_connected(&alice, &phone), "the older one's end must not take the newer one out");
    assert_eq!(taken(&newer), (Signal::Entries, vec![1]));
}

#[test]
fn a_device_can_be_asked_to_close_and_tells_what_it_acknowledged() {
    let hub = Arc::new(Hub::default());
    let (alice, phone) = (user("alice"), device("phone"));
    assert_eq!(hub.acked(&alice, &phone), None);
    let seat = hub.register(&alice, &phone);
    seat.set_acked(41);
    assert_eq!(hub.acked(&alice, &phone), Some(41));
    hub.close(&alice, Some(&device("other")), CloseCode::Revoked);
    assert!(!signalled(&seat));
    hub.close(&alice, Some(&phone), CloseCode::Revoked);
    for closer in hub.closers() {
        closer.close(CloseCode::Restart);
    }
    assert!(signalled(&seat));
    assert_eq!(taken(&seat).0, Signal::Close(CloseCode::Revoked), "the first code stands");
}

/// A hub of its own for each node of an exchange.
fn nodes(exchange: &Exchange) -> [Arc<Hub>; 2] {
    [1, 2].map(|node| {
        let epoch = Arc::new(|| "e".to_owned());
        Arc::new(Hub::new(exchange.join(Identity { node, epoch })))
    })
}

#[tokio::test]
async fn what_one_node_pushes_reaches_the_sessions_of_another() {
    let exchange = Exchange::default();
    let [here, there] = nodes(&exchange);
    let (alice, phone) = (user("alice"), device("phone"));
    let seat = there.register(&alice, &phone);
    seat.heard(PATIENCE).await;
    assert!(seat.follow(0));
    here.push(&alice, &live(1..=2));
    assert_eq!(taken(&seat), (Signal::Entries, vec![1, 2]));
    there.push(&alice, &live(1..=3));
    assert_eq!(taken(&seat), (Signal::Entries, vec![3]), "what came doubled is not queued again");
    here.push(&alice, &[Live { seq: 4, text: Some("x".repeat(MAX_NOTE).into()), changes_earlier: false }]);
    assert_eq!(taken(&seat), (Signal::Behind, vec![]), "too large for the bus: it is read");
    assert!(seat.follow(4));
    here.moved(&alice, 3);
    assert!(!signalled(&seat), "late news");
    exchange.silence(true);
    here.push(&alice, &live(5..=5));
    exchange.silence(false);
    here.push(&alice, &live(6..=6));
    assert_eq!(taken(&seat), (Signal::Entries, vec![6]), "the gap is the session's to see");
    drop(seat);
    assert!(there.users.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_connects_to_another_node_leaves_the_first() {
    let exchange = Exchange::default();
    let [here, there] = nodes(&exchange);
    let (alice, phone) = (user("alice"), device("phone"));
    let older = here.register(&alice, &phone);
    older.announce(1000);
    let other = here.register(&alice, &device("tablet"));
    other.announce(1000);
    let newer = there.register(&alice, &phone);
    newer.announce(1001);
    assert_eq!(taken(&older).0, Signal::Close(CloseCode::Replaced));
    assert!(!signalled(&newer) && !signalled(&other));
    // A clock that is behind does not keep the older one alive.
    tokio::time::sleep(PATIENCE).await;
    let newest = here.register(&alice, &phone);
    newest.announce(500);
    assert_eq!(taken(&newer).0, Signal::Close(CloseCode::Replaced));
    assert!(!signalled(&newest));
}

#[tokio::test(start_paused = true)]
async fn of_two_connections_of_one_moment_one_stays() {
    let (alice, phone) = (user("alice"), device("phone"));
    // Who tells second has heard of the first, whatever the clocks and names say.
    for (first_ms, second_ms) in [(1000, 1000), (9000, 1000), (1000, 9000)] {
        for swapped in [false, true] {
            let mut nodes = nodes(&Exchange::default());
            if swapped {
                nodes.reverse();
            }
            let [first, second] = nodes.map(|node| node.register(&alice, &phone));
            first.announce(first_ms);
            second.announce(second_ms);
            assert!(signalled(&first) && !signalled(&second), "{first_ms} {second_ms} {swapped}");
        }
    }
    // The second came when the first had told already, and its clock is behind or equal.
    for swapped in [false, true] {
        let mut nodes = nodes(&Exchange::default());
        if swapped {
            nodes.reverse();
        }
        let [first, second] = nodes;
        let first = first.register(&alice, &phone);
        first.announce(1000);
        let second = second.register(&alice, &phone);
        second.announce(if swapped { 1000 } else { 500 });
        assert!(signalled(&first) && !signalled(&second), "{swapped}");
    }
    // Both have told before they hear of the other.
    let exchange = Exchange::default();
    let [here, there] = nodes(&exchange);
    let (one, two) = (here.register(&alice, &phone), there.register(&alice, &phone));
    exchange.silence(true);
    one.announce(1000);
    two.announce(1000);
    exchange.silence(false);
    let late = Note::Connected { device: phone, at_ms: 1000 };
    there.publish(&alice, &late);
    here.publish(&alice, &late);
    assert!(signalled(&one) && !signalled(&two), "the higher name stays");
}

#[tokio::test]
async fn closing_reaches_every_node_and_so_do_notes_the_hub_does_not_know() {
    let exchange = Exchange::default();
    let [here, there] = nodes(&exchange);
    let (alice, phone) = (user("alice"), device("phone"));
    let seats = [there.register(&alice, &phone), there.register(&alice, &device("tablet"))];
    here.close(&alice, Some(&phone), CloseCode::Revoked);
    assert!(signalled(&seats[0]) && !signalled(&seats[1]));
    here.close(&alice, None, CloseCode::Revoked);
    assert!(signalled(&seats[1]));
    let (tell, told) = std::sync::mpsc::channel();
    let on_other = move |user: &UserId, node, kind, payload| drop(tell.send((user.clone(), node, kind, payload)));
    there.set_on_other(Box::new(on_other));
    here.publish(&alice, &Note::Other { kind: 3, payload: Bytes::from_static(b"typing") });
    assert_eq!(told.try_recv(), Ok((alice, 1, 3, Bytes::from_static(b"typing"))));
}

#[test]
fn a_session_that_follows_and_falls_behind_while_others_push_misses_nothing() {
    const LAST: u64 = 200_000;
    let hub = Arc::new(Hub::default());
    let alice = user("alice");
    let seat = hub.register(&alice, &device("phone"));
    // The log: durable up to here, before anything of it is pushed.
    let log = Arc::new(AtomicU64::new(0));
    let pusher = {
        let (hub, alice, log) = (Arc::clone(&hub), alice.clone(), Arc::clone(&log));
        std::thread::spawn(move || {
            for seq in (1..=LAST).step_by(2) {
                log.store(seq + 1, Ordering::SeqCst);
                hub.push(&alice, &live(seq..=seq + 1));
            }
        })
    };
    let (mut position, mut batch, mut following) = (0, Vec::new(), false);
    while position < LAST {
        if !following {
            // A page of the log, then live if nothing newer was pushed.
            position = log.load(Ordering::SeqCst);
            following = seat.follow(position);
        } else if poll_fn(|cx| seat.poll_signal(cx)).now_or_never().is_some() {
            following = seat.take(&mut batch) == Signal::Entries;
            for entry in batch.drain(..) {
                assert!(entry.seq <= position + 1, "a gap");
                position = position.max(entry.seq);
            }
        }
    }
    pusher.join().expect("pushed all");
    assert!(hub.deliveries() > 0);
}
