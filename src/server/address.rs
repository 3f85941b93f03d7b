//! Limits of one address: how fast it connects, and how many connections it holds.
//!
//! An address is an IPv4 address or an IPv6 network of 64 bits: who has one of its addresses has all.
//! Behind a trusted proxy it is the one the proxy names; anybody else's `X-Forwarded-For` is ignored,
//! else a client could choose whom to be counted as. An address that holds nothing and owes nothing is
//! forgotten.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::HeaderMap;
use ipnet::IpNet;
use tokio::time::Instant;

use crate::session::rate::Bucket;

/// Look for forgotten addresses when the table has doubled from this size.
const FIRST_SWEEP: usize = 1024;

/// Who counts as whom, and what each has.
pub(super) struct Addresses {
    rate: u32,
    max_open: usize,
    trusted: Vec<IpNet>,
    table: Mutex<Table>,
}

struct Table {
    entries: HashMap<IpAddr, Entry>,
    sweep_at: usize,
}

struct Entry {
    bucket: Bucket,
    open: usize,
}

/// One open connection of an address; dropping it gives the place back.
pub(super) struct Place {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    /// `rate`: connections a second, 0 = off; `max_open`: connections held, 0 = no limit.
    pub(super) fn new(rate: u32, max_open: usize, trusted: Vec<IpNet>) -> Self {
        let table = Mutex::new(Table { entries: HashMap::new(), sweep_at: FIRST_SWEEP });
        Self { rate, max_open, trusted, table }
    }

    /// Whether this peer is a proxy that speaks for others.
    pub(super) fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|network| network.contains(&peer))
    }

    /// The address a request counts for.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.is_proxy(peer) {
            return peer;
        }
        let lists = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = lists.flat_map(|list| list.split(',')).map(str::trim).collect();
        // From the right, as each proxy adds behind what it was given; the first that is no proxy of ours
        // is as far as anybody we trust has seen.
        let mut client = peer;
        for hop in hops.iter().rev() {
            let Ok(address) = hop.parse::<IpAddr>() else { break };
            client = address;
            if !self.is_proxy(address) {
                break;
            }
        }
        client
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new connection; false: too fast.
    pub(super) fn arrives(&self, address: IpAddr, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        let mut table = self.table();
        table.sweep(self.rate, now);
        let entry = table.entry(address, self.rate, now);
        entry.bucket.take(self.rate, now).is_ok()
    }

    /// Takes a place for as long as the connection is open; `None`: it holds too many.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Place> {
        let address = counted_as(address);
        if self.max_open > 0 {
            let mut table = self.table();
            let entry = table.entry(address, self.rate, now);
            if entry.open >= self.max_open {
                return None;
            }
            entry.open += 1;
        }
        Some(Place { addresses: Arc::clone(self), address })
    }
}

impl Table {
    fn entry(&mut self, address: IpAddr, rate: u32, now: Instant) -> &mut Entry {
        self.entries.entry(counted_as(address)).or_insert_with(|| Entry { bucket: Bucket::full(rate, now), open: 0 })
    }

    fn sweep(&mut self, rate: u32, now: Instant) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, entry| entry.open > 0 || !entry.bucket.is_full(rate, now));
            self.sweep_at = (self.entries.len() * 2).max(FIRST_SWEEP);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.addresses.max_open == 0 {
            return;
        }
        let mut table = self.addresses.table();
        if let Some(entry) = table.entries.get_mut(&self.address) {
            entry.open = entry.open.saturating_sub(1);
            if entry.open == 0 && self.addresses.rate == 0 {
                table.entries.remove(&self.address);
            }
        }
    }
}

/// The first 64 bits of an IPv6 address, an IPv4 address as it is.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn addresses(rate: u32, max_open: usize) -> Arc<Addresses> {
        let trusted = vec!["10.0.0.0/8".parse().expect("a network")];
        Arc::new(Addresses::new(rate, max_open, trusted))
    }

    #[test]
    fn each_address_has_its_own_rate_and_an_ipv6_network_is_one() {
        let (addresses, now) = (addresses(2, 0), Instant::now());
        assert_eq!((0..10).filter(|_| addresses.arrives(ip("192.0.2.1"), now)).count(), 6);
        assert!(addresses.arrives(ip("192.0.2.2"), now));
        assert!(!addresses.arrives(ip("::ffff:192.0.2.1"), now));
        assert!(addresses.arrives(ip("192.0.2.1"), now + Duration::from_millis(500)));
        let network = (1..10).filter(|n| addresses.arrives(ip(&format!("2001:db8::{n}")), now));
        assert_eq!(network.count(), 6);
    }

    #[test]
    fn a_place_is_given_back_by_drop() {
        let (addresses, now) = (addresses(0, 2), Instant::now());
        let first = addresses.enter(ip("192.0.2.1"), now);
        let second = addresses.enter(ip("192.0.2.1"), now);
        assert!(first.is_some() && second.is_some());
        assert!(addresses.enter(ip("192.0.2.1"), now).is_none());
        drop(first);
        assert!(addresses.enter(ip("192.0.2.1"), now).is_some());
        drop(second);
        assert!(addresses.table().entries.is_empty());
    }

    #[test]
    fn only_a_trusted_proxy_names_another_address() {
        let addresses = addresses(1, 0);
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "198.51.100.9, 203.0.113.7".parse().expect("a value"));
        headers.append("x-forwarded-for", "10.1.1.1".parse().expect("a value"));
        assert_eq!(addresses.client(ip("192.0.2.1"), &headers), ip("192.0.2.1"));
        assert_eq!(addresses.client(ip("10.0.0.1"), &headers), ip("203.0.113.7"));
        assert_eq!(addresses.client(ip("::ffff:10.0.0.1"), &headers), ip("203.0.113.7"));
        assert_eq!(addresses.client(ip("10.0.0.1"), &HeaderMap::new()), ip("10.0.0.1"));
        headers.append("x-forwarded-for", "nonsense".parse().expect("a value"));
        assert_eq!(addresses.client(ip("10.0.0.1"), &headers), ip("10.0.0.1"));
    }
}
