//! What is known of each peer: where it stands, whether it is connected, and whether it may be asked.
//!
//! Owns [`Peer`], its circuit breaker and its bans. Main invariant: a peer is asked only while it is connected,
//! not banned, and its breaker is closed, or half-open with nothing else under way. Being tried again is always
//! a matter of time, and the time grows with every failure (A9).

use indexmap::IndexMap;
use lunar_common::ids::{PeerKey, SiteId};
use lunar_common::time::Moment;
use rustc_hash::FxBuildHasher;

use super::config::Config;

/// What is kept of each of many peers. Each chunk has its source looked up several times, among hundreds, in memory that
/// nobody has touched since the last chunk: an ordered table reads ten times as much of it. The hash is a fast one that
/// whoever chooses keys can fool, and people enrol every key here. Nothing that is decided depends on where one lies.
pub(super) type ByPeer<V> = IndexMap<PeerKey, V, FxBuildHasher>;

/// How far away a source is. In order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// In the same site.
    Site,
    /// In another site.
    Sites,
    /// The origin, over the Earth link.
    Earth,
}

/// Whether a connection is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// No, and none is being made.
    Absent,
    /// One is being made.
    Connecting,
    /// Yes.
    Connected,
}

/// A circuit breaker (A9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breaker {
    /// Requests pass.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    /// Nothing passes until then.
    Open {
        /// Until when.
        until: Moment,
        /// How often it opened in a row.
        opened: u32,
    },
    /// One request, or one attempt to connect, passes and decides.
    HalfOpen {
        /// How often it opened in a row.
        opened: u32,
    },
}

/// One peer.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its place in the table of peers.
    pub(super) at: usize,
    pub(super) site: SiteId,
    pub(super) class: Class,
    pub(super) link: Link,
    pub(super) breaker: Breaker,
    /// Not asked before then, although nothing is wrong: it said that it is busy, or full.
    pub(super) resting_until: Option<Moment>,
    pub(super) banned_until: Option<Moment>,
    bans: u32,
    lies: u32,
    busy: u32,
    /// It has given something that was good.
    gave: bool,
    /// Its breaker was opened by connections that failed, and by nothing else.
    unreached: bool,
    /// Requests in flight to it.
    pub(super) in_flight: u32,
}

impl Peer {
    /// A peer that nothing was tried with yet.
    pub(super) fn new(at: usize, site: SiteId, class: Class) -> Self {
        Self {
            at,
            site,
            class,
            link: Link::Absent,
            breaker: Breaker::Closed { failures: 0 },
            resting_until: None,
            banned_until: None,
            bans: 0,
            lies: 0,
            busy: 0,
            gave: false,
            unreached: false,
            in_flight: 0,
        }
    }

    /// Whether its copies are copies that could be had: connected, not banned, breaker not open.
    pub(super) fn is_source(&self) -> bool {
        self.link == Link::Connected
            && self.banned_until.is_none()
            && !matches!(self.breaker, Breaker::Open { .. })
    }

    /// Whether its copies can be counted on: a source whose breaker is half-open has to prove itself first, with what
    /// could be had elsewhere too, or with what nobody else was asked for.
    pub(super) fn is_counted(&self) -> bool {
        self.is_source() && !self.is_on_trial()
    }

    /// Whether its breaker is half-open.
    pub(super) fn is_on_trial(&self) -> bool {
        matches!(self.breaker, Breaker::HalfOpen { .. })
    }

    /// Whether a request may be sent to it now.
    pub(super) fn is_askable(&self) -> bool {
        let room = match self.breaker {
            Breaker::Closed { .. } => true,
            Breaker::HalfOpen { .. } => self.in_flight == 0,
            Breaker::Open { .. } => false,
        };
        room && self.is_source() && self.resting_until.is_none()
    }

    /// Whether a connection may be tried now.
    pub(super) fn is_connectable(&self) -> bool {
        self.link == Link::Absent
            && self.banned_until.is_none()
            && self.resting_until.is_none()
            && !matches!(self.breaker, Breaker::Open { .. })
    }

    /// Whether it can be trusted with a duty: what only it fetches is lost to us while it is banned, does not
    /// answer, or cannot be reached. A half-open breaker has proved nothing yet.
    pub(super) fn is_reliable(&self) -> bool {
        let works = match self.breaker {
            Breaker::Closed { failures } => failures == 0 || self.link == Link::Connected,
            Breaker::Open { .. } | Breaker::HalfOpen { .. } => false,
        };
        works && self.banned_until.is_none()
    }

    /// Whether it may speak yet: it can be relied on, and has not left us once already since it last gave something.
    /// Whoever comes and goes is not waited for again and again.
    pub(super) fn may_be_heard(&self) -> bool {
        self.class != Class::Earth && self.is_reliable() && self.busy == 0
    }

    /// A connection to it is up: what only failed connections had said of it is not true any more.
    pub(super) fn reached(&mut self) {
        self.link = Link::Connected;
        self.resting_until = None;
        if std::mem::take(&mut self.unreached) {
            self.breaker = Breaker::Closed { failures: 0 };
        }
    }

    /// Failures in a row that have not opened its breaker.
    pub(super) fn failures(&self) -> u32 {
        match self.breaker {
            Breaker::Closed { failures } => failures,
            Breaker::Open { .. } | Breaker::HalfOpen { .. } => u32::MAX,
        }
    }

    /// Something worked. Tells whether that closed its breaker.
    pub(super) fn succeeded(&mut self) -> bool {
        let closed = !matches!(self.breaker, Breaker::Closed { .. });
        self.breaker = Breaker::Closed { failures: 0 };
        self.unreached = false;
        self.gave = true;
        self.busy = 0;
        closed
    }

    /// A request or an attempt to connect failed.
    pub(super) fn failed(&mut self, key: &PeerKey, config: &Config, now: Moment) {
        self.unreached = false;
        self.breaker = match self.breaker {
            Breaker::Closed { failures } if failures + 1 < config.breaker_failures => {
                Breaker::Closed { failures: failures + 1 }
            }
            Breaker::Closed { .. } => open(0, key, config, now),
            Breaker::HalfOpen { opened } => open(opened, key, config, now),
            open @ Breaker::Open { .. } => open,
        };
    }

    /// A request came to nothing in all its time. Whoever has never given anything is given no second one.
    pub(super) fn dripped(&mut self, key: &PeerKey, config: &Config, now: Moment) {
        if let (false, Class::Site | Class::Sites, Breaker::Closed { .. }) =
            (self.gave, self.class, self.breaker)
        {
            self.unreached = false;
            self.breaker = open(0, key, config, now);
        } else {
            self.failed(key, config, now);
        }
    }

    /// An attempt to connect failed: unlike a request's failure, one is enough.
    pub(super) fn unreached(&mut self, key: &PeerKey, config: &Config, now: Moment) {
        self.unreached |= matches!(self.breaker, Breaker::Closed { .. });
        self.breaker = match self.breaker {
            Breaker::Closed { .. } => open(0, key, config, now),
            Breaker::HalfOpen { opened } | Breaker::Open { opened, .. } => open(opened, key, config, now),
        };
    }

    /// It has too much to do. Its breaker does not count that; it is left alone for as long as it asks, and
    /// longer when it says so again.
    pub(super) fn rest(&mut self, key: &PeerKey, config: &Config, at_least: Moment, now: Moment) {
        let wait = config.breaker.delay(self.busy, "swarm busy", &[&key.0]);
        self.busy = self.busy.saturating_add(1).min(8);
        self.resting_until = Some(now.after(wait).max(at_least));
    }

    /// It sent bytes that do not verify: banned, longer each time.
    pub(super) fn ban(&mut self, key: &PeerKey, config: &Config, now: Moment) -> Moment {
        let until = now.after(config.ban.delay(self.bans, "swarm ban", &[&key.0]));
        self.bans = self.bans.saturating_add(1);
        self.lies = 0;
        self.banned_until = Some(until);
        until
    }

    /// It was found to have said an untruth. Tells whether that was one too many.
    pub(super) fn lied(&mut self, config: &Config) -> bool {
        self.lies += 1;
        self.lies >= config.lies_max
    }

    /// Ends what is over. Tells the next moment at which something ends, if any.
    pub(super) fn refresh(&mut self, now: Moment) -> Option<Moment> {
        if self.banned_until.is_some_and(|until| until <= now) {
            self.banned_until = None;
        }
        if self.resting_until.is_some_and(|until| until <= now) {
            self.resting_until = None;
        }
        let mut next = [self.banned_until, self.resting_until].into_iter().flatten().min();
        if let Breaker::Open { until, opened } = self.breaker {
            if until <= now {
                self.breaker = Breaker::HalfOpen { opened };
            } else {
                next = Some(next.map_or(until, |other| other.min(until)));
            }
        }
        next
    }
}

/// An opened breaker; each time in a row it stays open longer.
fn open(opened: u32, key: &PeerKey, config: &Config, now: Moment) -> Breaker {
    let until = now.after(config.breaker.delay(opened, "swarm breaker", &[&key.0]));
    Breaker::Open { until, opened: opened.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let mut peer = Peer::new(0, SiteId::new("a").unwrap(), Class::Site);
        peer.link = Link::Connected;
        peer
    }

    const KEY: PeerKey = PeerKey([1; 32]);

    #[test]
    fn a_breaker_opens_after_failures_in_a_row_and_lets_one_request_through_later() {
        let (config, mut peer) = (Config::default(), peer());
        for _ in 0..config.breaker_failures {
            assert!(peer.is_askable());
            peer.failed(&KEY, &config, Moment(0));
        }
        assert!(!peer.is_askable() && !peer.is_source());
        let until = peer.refresh(Moment(0)).unwrap();
        assert!(peer.refresh(until).is_none());
        assert!(peer.is_askable());
        peer.in_flight = 1;
        assert!(!peer.is_askable(), "half-open lets one request through, not two");
        peer.succeeded();
        assert!(peer.is_askable());
    }

    #[test]
    fn a_breaker_that_fails_half_open_stays_open_twice_as_long() {
        let (config, mut peer) = (Config::default(), peer());
        peer.unreached(&KEY, &config, Moment(0));
        let first = peer.refresh(Moment(0)).unwrap();
        peer.refresh(first);
        peer.failed(&KEY, &config, first);
        let second = peer.refresh(first).unwrap();
        assert!(second.since(first) >= first.since(Moment(0)) * 2 * 9 / 10);
        assert!(second.since(first) >= config.breaker.base * 2);
    }

    #[test]
    fn a_peer_that_could_not_be_reached_is_relied_on_as_soon_as_it_connects() {
        let (config, mut peer) = (Config::default(), peer());
        peer.link = Link::Absent;
        peer.unreached(&KEY, &config, Moment(0));
        assert!(!peer.is_reliable());
        peer.reached();
        assert!(peer.is_reliable() && peer.is_askable());
        // What failed otherwise is not mended by a connection.
        for _ in 0..config.breaker_failures {
            peer.failed(&KEY, &config, Moment(0));
        }
        peer.unreached(&KEY, &config, Moment(0));
        peer.reached();
        assert!(!peer.is_reliable());
    }

    #[test]
    fn bans_grow_and_end() {
        let (config, mut peer) = (Config::default(), peer());
        let first = peer.ban(&KEY, &config, Moment(0));
        assert!(!peer.is_source());
        peer.refresh(first);
        assert!(peer.is_source());
        let second = peer.ban(&KEY, &config, first);
        assert!(second.since(first) >= config.ban.base * 2);
    }
}
