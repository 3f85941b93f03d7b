//! A channel on its own: what is taken in, what each follower lacks, and where a stay begins and ends.

use super::*;
use crate::protocol::DeviceId;

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user")
}

fn town() -> ConvId {
    ConvId::parse("g:town").expect("a conversation")
}

fn message(seq: u64) -> News {
    News { seq, text: Some(format!("m{seq}").into()), effect: Effect::None }
}

fn of(seq: u64, effect: Effect) -> News {
    News { seq, text: None, effect }
}

struct Fixture {
    hub: Arc<Hub>,
    /// Seats stay while the test runs.
    _seats: Vec<crate::hub::Registration>,
}

impl Fixture {
    fn new() -> Self {
        Self { hub: Arc::new(Hub::default()), _seats: Vec::new() }
    }

    fn follow(&mut self, name: &str, from: u64, head: u64) -> Follow {
        let seat = self.hub.register(&user(name), &DeviceId::parse("phone").expect("a device"));
        let follow = seat.follower().follow(&town());
        self.hub.begin(&town(), head);
        follow.begins(from);
        self._seats.push(seat);
        follow
    }
}

fn texts(lacks: Option<Lacks>) -> (u64, Option<Vec<String>>, bool) {
    let lacks = lacks.expect("something new");
    let texts = lacks.entries.map(|entries| entries.iter().map(ToString::to_string).collect());
    (lacks.head, texts, lacks.ended)
}

#[test]
fn what_came_since_the_last_look_is_collected_in_one_piece() {
    let mut fixture = Fixture::new();
    let alice = fixture.follow("alice", 3, 9);
    assert_eq!(alice.lacks(9), None);
    fixture.hub.tell(&town(), &[message(10), message(11)]);
    fixture.hub.tell(&town(), &[message(11), message(12)]);
    assert_eq!(texts(alice.lacks(9)), (12, Some(vec!["m10".into(), "m11".into(), "m12".into()]), false));
    assert_eq!(texts(alice.lacks(11)), (12, Some(vec!["m12".into()]), false));
    assert_eq!(alice.lacks(12), None);
    // What came before is not known here.
    assert_eq!(texts(alice.lacks(8)), (12, None, false));
    drop(alice);
    assert!(fixture.hub.followed().is_empty());
}

#[test]
fn many_entries_are_left_out() {
    let mut fixture = Fixture::new();
    let alice = fixture.follow("alice", 0, 0);
    (1..=RING as u64 + 1).for_each(|seq| fixture.hub.tell(&town(), &[message(seq)]));
    assert_eq!(texts(alice.lacks(0)), (65, None, false));
    let big = News { text: Some("x".repeat(RING_BYTES + 1).into()), ..message(66) };
    fixture.hub.tell(&town(), &[big]);
    assert_eq!(texts(alice.lacks(65)), (66, None, false));
}

#[test]
fn nothing_recalled_is_told_to_who_lags() {
    let mut fixture = Fixture::new();
    let alice = fixture.follow("alice", 0, 9);
    fixture.hub.tell(&town(), &[message(10)]);
    fixture.hub.tell(&town(), &[News { effect: Effect::Recalls, ..message(11) }]);
    assert_eq!(texts(alice.lacks(9)), (11, None, false));
    assert_eq!(texts(alice.lacks(10)), (11, Some(vec!["m11".into()]), false));
}

#[test]
fn who_was_removed_is_told_nothing_later() {
    let mut fixture = Fixture::new();
    let (alice, bob) = (fixture.follow("alice", 2, 9), fixture.follow("bob", 2, 9));
    fixture.hub.tell(&town(), &[message(10), of(11, Effect::Ends(user("bob"))), message(12)]);
    assert_eq!(texts(bob.lacks(9)), (11, Some(vec!["m10".into()]), true));
    assert_eq!(texts(alice.lacks(9)).0, 12);
    fixture.hub.tell(&town(), &[of(13, Effect::EndsAll), message(14)]);
    assert_eq!(texts(alice.lacks(12)), (13, Some(vec![]), true));
}

#[test]
fn an_older_end_is_not_that_of_who_came_back() {
    let mut fixture = Fixture::new();
    let _alice = fixture.follow("alice", 2, 9);
    // He has come back with 12 already, which is known here later than by his own timeline.
    let bob = fixture.follow("bob", 12, 12);
    fixture.hub.tell(&town(), &[message(10), of(11, Effect::Ends(user("bob"))), of(12, Effect::None), message(13)]);
    assert_eq!(texts(bob.lacks(12)), (13, Some(vec!["m13".into()]), false));
}

#[test]
fn what_does_not_continue_is_read_from_the_log() {
    let mut fixture = Fixture::new();
    let asked = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&asked);
    fixture.hub.set_on_moved(Box::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let alice = fixture.follow("alice", 0, 9);
    fixture.hub.tell(&town(), &[message(12)]);
    fixture.hub.look(&town(), 13);
    assert_eq!((alice.lacks(9), asked.load(Ordering::Relaxed)), (None, 1));
    assert_eq!(fixture.hub.missing(&town()), Some((9, 13)));
    fixture.hub.tell(&town(), &[message(10), message(11), message(12), message(13)]);
    assert_eq!(fixture.hub.missing(&town()), None);
    assert_eq!(texts(alice.lacks(9)).0, 13);
    fixture.hub.look(&town(), 14);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn an_entry_told_before_anybody_looked_is_not_lost() {
    let hub = Arc::new(Hub::default());
    let seat = hub.register(&user("alice"), &DeviceId::parse("phone").expect("a device"));
    let alice = seat.follower().follow(&town());
    hub.tell(&town(), &[message(10)]);
    hub.begin(&town(), 9);
    assert_eq!(hub.missing(&town()), Some((9, 10)));
    hub.tell(&town(), &[message(10)]);
    assert_eq!(texts(alice.lacks(9)).0, 10);
}
