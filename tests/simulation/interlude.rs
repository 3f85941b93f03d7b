//! What was added to the stories without changing the others: it draws from dice of its own.
//!
//! Now and then a story is interrupted, right before its last blow, by a scene that first sees to it that what it
//! demands can be demanded; and where nodes share a bus, another service speaks on it all the time.

use std::sync::Arc;

use everline::bus::{Note, Subject};
use everline::hub::Live;
use everline::protocol::*;
use rand::Rng;
use rand::rngs::StdRng;
use rand::{SeedableRng, seq::IndexedRandom};

use crate::run::Run;

/// The dice of a seed's interludes.
pub fn dice(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ 0x1e7e_71de)
}

impl Run {
    /// See the module.
    pub async fn interlude(&mut self) -> Result<(), String> {
        if !self.dice.random_bool(0.35) {
            return Ok(());
        }
        std::mem::swap(&mut self.rng, &mut self.dice);
        let done = match self.rng.random_range(0..4) {
            0 => self.two_places().await,
            1 => self.sent_away().await,
            2 => self.cut_off().await,
            _ => self.late_clock().await,
        };
        std::mem::swap(&mut self.rng, &mut self.dice);
        self.house.silence(false);
        self.house.trouble(true);
        done
    }

    /// Another service with data of its own, which has the same users and the same bus, tells of what it does:
    /// nobody here must hear it.
    pub fn stranger(&mut self) {
        if !self.house.has_bus() || !self.dice.random_bool(0.3) {
            return;
        }
        self.tick("foreign notes");
        let user = self.people.choose(&mut self.dice).expect("some").clone();
        let head = self.house.sync_head(&user);
        let note = match self.dice.random_range(0..5) {
            0 => Note::Moved { head: head + 3 },
            1 => Note::Close { device: None, code: CloseCode::Revoked },
            _ => {
                let text: Arc<str> = Arc::from("\"op\":\"notification\",\"topic\":\"foreign\",\"body\":{}}");
                Note::Entries(vec![Live { seq: head + 1, text: Some(text), changes_earlier: false }])
            }
        };
        self.house.stranger().publish(&Subject::User(user), &note);
    }
}
