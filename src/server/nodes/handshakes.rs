//! How many strangers may be at the door: handshakes that are under way are bounded, in all and for each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The most at a time. Each may take [`super::connection::HANDSHAKE`].
const MOST: usize = 512;
/// The most of one address at a time, so that one stranger does not keep all others out.
const MOST_OF_ONE: usize = 128;

/// The handshakes under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Handshakes(Arc<Mutex<UnderWay>>);

#[derive(Debug, Default)]
struct UnderWay {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One handshake, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    handshakes: Handshakes,
}

impl Handshakes {
    /// One more from this address, if there is room.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = under_way.by_address.get(&address).copied().unwrap_or_default();
        if under_way.all >= MOST || own >= MOST_OF_ONE {
            return None;
        }
        under_way.all += 1;
        under_way.by_address.insert(address, own + 1);
        Some(Place { address, handshakes: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.handshakes.0.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.all -= 1;
        if let Some(own) = under_way.by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                under_way.by_address.remove(&self.address);
            }
        }
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stranger_does_not_keep_all_others_out() {
        let handshakes = Handshakes::default();
        let stranger = "192.0.2.1".parse().unwrap();
        let held: Vec<_> = std::iter::from_fn(|| handshakes.enter(stranger)).collect();
        assert_eq!(held.len(), MOST_OF_ONE);
        assert!(handshakes.enter("::ffff:192.0.2.1".parse().unwrap()).is_none(), "the same address");
        drop(handshakes.enter("192.0.2.2".parse().unwrap()).unwrap());
        drop(held);
        let many = |i: u8| handshakes.enter(IpAddr::from([10, 0, i, 1]));
        let held: Vec<_> =
            (0..8).flat_map(|i| std::iter::from_fn(move || Some(i)).take(MOST_OF_ONE)).map_while(many).collect();
        assert_eq!(held.len(), MOST);
        drop(held);
        assert!(handshakes.enter(stranger).is_some());
        assert_eq!(handshakes.0.lock().unwrap().by_address.len(), 0, "nobody is remembered");
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let handshakes = Handshakes::default();
        let held: Vec<_> =
            (0..1000_u16).map_while(|i| handshakes.enter(format!("2001:db8::{i:x}").parse().unwrap())).collect();
        assert_eq!(held.len(), MOST_OF_ONE);
        assert!(handshakes.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
    }
}
