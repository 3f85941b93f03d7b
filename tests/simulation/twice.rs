//! What closes a connection wherever it is: the same device at another node, a logout, a revocation.
//!
//! The devices are guests: further ones of the users, gone when the scene is over. Hints between nodes may be lost,
//! so a close at another node is demanded where the bus is well; without it a revocation is found by the next
//! heartbeat, and a line on which nobody answers by the second.

use std::time::Duration;

use everline::protocol::*;
use rand::Rng;

use crate::device::{Act, Raw};
use crate::run::{Run, ms};

/// A session closes within: a peer that does not answer is given two seconds.
const SOON: Duration = Duration::from_secs(5);

impl Run {
    /// A further device of the user, gone with the scene.
    pub fn guest(&mut self, user: &UserId) -> Raw {
        let name = self.fresh("guest");
        Raw::new(user, &name)
    }

    /// Two nodes that are well (or one), whether what is told at one is heard at the other, and some user.
    async fn two_nodes(&mut self) -> (usize, usize, bool, UserId) {
        let nodes = self.house.nodes();
        let (here, there) = (self.rng.random_range(0..nodes), self.rng.random_range(0..nodes));
        self.restore(&[here, there]).await;
        self.house.trouble(false);
        let silent = self.rng.random_bool(0.1);
        self.house.silence(silent);
        (here, there, here == there || self.house.has_bus() && !silent, self.person())
    }

    /// A device connects, perhaps to another node, while its older connection stands.
    pub async fn two_places(&mut self) -> Result<(), String> {
        let (here, there, heard, user) = self.two_nodes().await;
        let mut older = self.guest(&user);
        let mut newer = Raw::new(&user, older.id.as_str());
        let apart = [0, 1, 300, 3_000][self.rng.random_range(0..4)];
        let dead = apart >= 300 && self.rng.random_bool(0.5);
        self.note(&format!("{user} {} at {here}, {apart} ms later at {there}; dead {dead}, heard {heard}", older.id));
        older.connect(&self.house, here, None, false);
        tokio::time::sleep(ms(apart)).await;
        if dead {
            half_open(&older);
        }
        newer.connect(&self.house, there, None, false);
        self.tick(if here == there { "replaced here" } else { "replaced elsewhere" });
        tokio::time::sleep(SOON).await;
        let over = (is_over(&older), is_over(&newer));
        if heard && (over.0 == over.1 || apart >= 300 && over != (true, false)) {
            return Err(format!("{user} {}: the older connection is over, the newer is: {over:?}", older.id));
        }
        if heard && apart >= 300 && !dead {
            self.closed_with(&older, CloseCode::Replaced)?;
        }
        if dead {
            tokio::time::sleep(self.house.setting().heartbeat * 4).await;
            if !is_over(&older) {
                return Err(format!("{user} {}: nobody answers at node {here}, and it goes on", older.id));
            }
        }
        [older, newer].iter_mut().for_each(Raw::kill);
        Ok(())
    }

    /// A device is logged out or revoked, perhaps at another node than it is at.
    pub async fn sent_away(&mut self) -> Result<(), String> {
        let (here, there, heard, user) = self.two_nodes().await;
        let (mut guest, mut host) = (self.guest(&user), self.guest(&user));
        let (dead, revoked) = (self.rng.random_bool(0.3), self.rng.random_bool(0.5));
        self.note(&format!("{user} {} at {here} must go, by {there}; revoked {revoked}, dead {dead}", guest.id));
        guest.connect(&self.house, here, None, false);
        host.connect(&self.house, there, None, false);
        tokio::time::sleep(ms(1_500)).await;
        if dead {
            half_open(&guest);
        }
        if revoked {
            let done = self.house.engine(there).revoke(&user, &guest.id).await;
            done.map_err(|refusal| format!("revoking {user} {}: {refusal:?}", guest.id))?;
        } else {
            host.act(Act::Ask(Request::Logout { device_id: guest.id.clone() }));
        }
        self.tick(if here == there { "sent away here" } else { "sent away from elsewhere" });
        tokio::time::sleep(SOON).await;
        if !heard && revoked {
            tokio::time::sleep(self.house.setting().heartbeat * 2).await;
        }
        if heard || revoked {
            if !is_over(&guest) {
                return Err(format!("{user} {} goes on at node {here}", guest.id));
            }
            if !dead {
                self.closed_with(&guest, CloseCode::Revoked)?;
            }
        }
        [guest, host].iter_mut().for_each(Raw::kill);
        Ok(())
    }

    fn closed_with(&self, device: &Raw, code: CloseCode) -> Result<(), String> {
        let conn = device.wired.get().map(|(conn, ..)| conn);
        let closed = conn.and_then(|conn| self.house.model().conns[conn].closed);
        if closed == Some(code.code()) {
            return Ok(());
        }
        Err(format!("{} {} was told {closed:?} at the close, not {code:?}", device.user, device.id))
    }
}

/// Nothing comes through any more, either way, and no end can be seen.
fn half_open(device: &Raw) {
    if let Some((_, line, _)) = device.wired.get() {
        line.up.shut(true);
        line.down.shut(true);
    }
}

/// Whether the node has done with the device's connection.
fn is_over(device: &Raw) -> bool {
    device.wired.get().is_none_or(|(_, line, _)| line.is_over())
}
