//! What goes wrong, and when: faults of the store, nodes hurt while requests are under way, devices that
//! come and go, time that passes.

use std::time::Duration;

use everline::store::sim::{Faults, Unknown};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::absorb::Check;
use crate::device::{Device, Owes};
use crate::run::{DIED, Run};

/// How badly the store behaves in this history.
pub fn faults(rng: &mut StdRng, together: bool) -> Faults {
    let ms = Duration::from_millis;
    let latency = [ms(0)..ms(0), ms(0)..ms(5), ms(1)..ms(40)][rng.random_range(0..3)].clone();
    let none = Faults { latency, lose_unsynced: rng.random_bool(0.8), ..Faults::none() };
    if together {
        return none;
    }
    let unknown = Unknown { happened: 1.0, did_not: 1.0, later: 1.0 };
    let late = ms(1)..ms([20, 500, 5000][rng.random_range(0..3)]);
    let unknown_p = [0.0, 0.05, 0.25][rng.random_range(0..3)];
    let read_error_p = [0.0, 0.0, 0.05][rng.random_range(0..3)];
    Faults { unknown_p, unknown, late, read_error_p, ..none }
}

impl Run {
    /// Some devices come on-line while requests are under way.
    #[expect(clippy::type_complexity, reason = "said once")]
    pub fn visits(&mut self) -> Vec<(usize, tokio::task::JoinHandle<(Device, Result<crate::device::Seen, String>)>)> {
        let mut visits = Vec::new();
        for index in 0..self.devices.len() {
            if !self.rng.random_bool(0.1) {
                continue;
            }
            let node = self.rng.random_range(0..self.world.nodes.len());
            let (engine, dead) = (self.world.nodes[node].engine.clone(), self.world.nodes[node].dead.clone());
            let pages = self.rng.random_range(1..4);
            let limits = (self.rng.random_range(1..12), [300, 1 << 20][self.rng.random_range(0..2)]);
            let mut device = self.devices[index].clone();
            self.note(format!("node {node}: {:?} visits at {}", device.caller, device.cursor));
            self.count("visits");
            visits.push((
                index,
                tokio::spawn(async move {
                    let before = device.clone();
                    let visit =
                        tokio::time::timeout(Duration::from_secs(20), device.visit(&engine, pages, limits)).await;
                    match visit {
                        Ok(seen) if !dead.load(std::sync::atomic::Ordering::Acquire) => (device, seen),
                        // The connection broke: what was not stored is not there.
                        _ => (before, Ok(crate::device::Seen::default())),
                    }
                }),
            ));
        }
        visits
    }

    /// Hurts somebody while requests are under way.
    pub async fn disturb(&mut self) -> Check {
        if self.rng.random_bool(if self.world.together { 0.85 } else { 0.65 }) {
            return Ok(());
        }
        let wait = Duration::from_micros(self.rng.random_range(0..50_000));
        if self.rng.random_bool(0.7) {
            tokio::time::sleep(wait).await;
        } else {
            for _ in 0..self.rng.random_range(0..12) {
                tokio::task::yield_now().await;
            }
        }
        let node = self.rng.random_range(0..self.world.nodes.len());
        match self.rng.random_range(0..6) {
            _ if self.world.together => {
                self.note("crash".into());
                self.count("crashes");
                self.world.crash(node).await;
                if self.world.is_directory() {
                    return Err(DIED.into());
                }
            }
            0 => {
                self.note(format!("node {node} is killed"));
                self.count("kills");
                self.world.crash(node).await;
            }
            1 => {
                self.note(format!("node {node} is paused"));
                self.count("pauses");
                self.world.pause(node, true);
            }
            2 => {
                self.note(format!("node {node} is cut off"));
                self.count("cuts");
                self.world.cut(node, true);
            }
            3 => {
                let victim = self.world.nodes[node].incarnation;
                let by = self.rng.random_range(0..self.world.nodes.len());
                self.note(format!("node {by} takes node {node} for dead"));
                if self.world.take_over(by, Some(victim)).await {
                    self.count("takeovers");
                }
            }
            _ => self.bury_alive(node).await,
        }
        Ok(())
    }

    /// A node stands still, is taken for dead, goes on, and then does die.
    async fn bury_alive(&mut self, node: usize) {
        let by = self.rng.random_range(0..self.world.nodes.len());
        if by == node || self.world.nodes[by].paused || self.world.nodes[by].cut {
            return;
        }
        self.note(format!("node {node} is paused, taken for dead by {by}, goes on"));
        self.count("buried alive");
        self.world.pause(node, true);
        let victim = self.world.nodes[node].incarnation;
        self.world.take_over(by, Some(victim)).await;
        self.world.pause(node, false);
        if self.rng.random_bool(0.8) {
            let longest = [1000, 20_000, 150_000][self.rng.random_range(0..3)];
            tokio::time::sleep(Duration::from_micros(self.rng.random_range(0..longest))).await;
            self.note(format!("node {node} is killed"));
            self.count("kills");
            self.world.crash(node).await;
        }
    }

    /// Between steps: the paused go on, the dead are taken over, time passes, devices are lost.
    pub async fn maintain(&mut self) -> Check {
        for node in 0..self.world.nodes.len() {
            if self.rng.random_bool(0.5) {
                self.world.pause(node, false);
                self.world.cut(node, false);
            }
        }
        if !self.world.together && !self.world.orphans.is_empty() && self.rng.random_bool(0.5) {
            let able: Vec<_> = (0..self.world.nodes.len())
                .filter(|n| !self.world.nodes[*n].paused && !self.world.nodes[*n].cut)
                .collect();
            if let Some(by) = able.choose(&mut self.rng) {
                self.note(format!("node {by} takes over {:?}", self.world.orphans));
                if self.world.take_over(*by, None).await {
                    self.count("takeovers");
                }
            }
        }
        if self.rng.random_bool(0.02) {
            let hours = [1, 25, 200][self.rng.random_range(0..3)];
            self.note(format!("{hours} hours pass"));
            self.count("jumps");
            self.world.clock.jump(hours * 60 * 60 * 1000);
            // What the store drops must be known before.
            self.model.absorb(&self.world)?;
            self.world.expire();
        }
        if self.rng.random_bool(0.03) {
            // Clocks are set, and nodes' clocks differ.
            let seconds = self.rng.random_range(1..100);
            self.note(format!("the clock goes {seconds} s back"));
            self.count("back in time");
            self.world.clock.jump(-seconds * 1000);
        }
        if self.rng.random_bool(0.05) {
            let index = self.rng.random_range(0..self.devices.len());
            self.devices[index].owes = Owes::Hello;
            self.count("new devices");
        }
        Ok(())
    }
}
