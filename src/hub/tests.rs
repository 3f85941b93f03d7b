//! The promises of the hub.

use std::future::poll_fn;

use futures::FutureExt;

use super::*;

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
    hub.close(&alice, &device("other"), CloseCode::Revoked);
    assert!(!signalled(&seat));
    hub.close(&alice, &phone, CloseCode::Revoked);
    for closer in hub.closers() {
        closer.close(CloseCode::Restart);
    }
    assert!(signalled(&seat));
    assert_eq!(taken(&seat).0, Signal::Close(CloseCode::Revoked), "the first code stands");
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
