//! Whom to be connected to.
//!
//! Owns the choice of neighbours: whom to dial, whom to let go, whom to ask for more, when to go back to the
//! bootstrap peers, and who is banned. Main invariant: the number of connections follows the configured
//! bounds and never the size of the fleet, and two halves of a fleet that were cut apart find each other again
//! ([`MIX_INTERVAL`]) although neither lacks neighbours. Pure: time comes in, randomness is keyed draws.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lunar_common::ids::PeerKey;
use lunar_common::order::{draw, draw_below};
use lunar_common::retry::BackOff;
use lunar_common::time::{Moment, millis};

use super::config::MeshBounds;

/// Every machine tries somebody new this often (up to twice it), so that a healed partition is noticed. In a
/// site of 100 somebody does so every six seconds.
const MIX_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// A connection this young is not closed for being one too many: its other end just chose it.
const GRACE: Duration = Duration::from_secs(30);

/// A connection used for a request is not closed for this long afterwards.
const BUSY_FOR: Duration = Duration::from_secs(60);

/// A connection that lived this long says that the machine at its other end is well.
const SOUND_AFTER: Duration = Duration::from_secs(60);

/// Between two dials of one machine.
const REDIAL: BackOff = BackOff { base: Duration::from_secs(1), cap: Duration::from_secs(5 * 60) };

/// Between two rounds through the bootstrap peers.
const BOOTSTRAP: BackOff = BackOff { base: Duration::from_millis(500), cap: Duration::from_secs(60) };

/// Between two questions for more machines while some are missing.
const ASKING: BackOff = BackOff { base: Duration::from_secs(1), cap: Duration::from_secs(5 * 60) };

/// How long a machine that misbehaves is banned, the first time.
const BAN: BackOff = BackOff { base: Duration::from_secs(30), cap: Duration::from_secs(60 * 60) };

/// Misdeeds before a ban: a neighbour whose trust root is one step ahead of ours passes on what we cannot
/// verify yet, and must not be lost for that.
const STRIKES_MAX: u32 = 3;

/// Most machines whose misdeeds are remembered.
const OFFENDERS_MAX: usize = 1024;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Connect to this machine.
    Dial(PeerKey),
    /// Close the connections to this machine.
    Close(PeerKey),
    /// Ask this connected machine whom it knows.
    Ask(PeerKey),
    /// Dial the bootstrap peers.
    Bootstrap,
}

/// What is known of one machine.
#[derive(Debug, Default)]
struct Candidate {
    beyond: bool,
    directory: bool,
    failures: u32,
    retry_at: Moment,
    dialling: bool,
    link: Option<Link>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    since: Moment,
    busy_until: Moment,
}

#[derive(Debug, Default)]
struct Offence {
    strikes: u32,
    bans: u32,
    banned_until: Moment,
}

/// The choice of neighbours.
#[derive(Debug)]
pub(super) struct Neighbours {
    own: PeerKey,
    bounds: MeshBounds,
    candidates: BTreeMap<PeerKey, Candidate>,
    offences: BTreeMap<PeerKey, Offence>,
    bootstrapped: bool,
    bootstrap_attempts: u32,
    bootstrap_at: Moment,
    asks: u32,
    ask_at: Moment,
    mixes: u64,
    mix_at: Moment,
    wake_at: Option<Moment>,
    actions: VecDeque<Action>,
}

impl Neighbours {
    pub(super) fn new(own: PeerKey, bounds: MeshBounds, now: Moment) -> Self {
        let mut neighbours = Self {
            own,
            bounds,
            candidates: BTreeMap::new(),
            offences: BTreeMap::new(),
            bootstrapped: false,
            bootstrap_attempts: 0,
            bootstrap_at: now,
            asks: 0,
            ask_at: now,
            mixes: 0,
            mix_at: now,
            wake_at: Some(now),
            actions: VecDeque::new(),
        };
        neighbours.plan_next_mix(now);
        neighbours
    }

    /// What to do, oldest first.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.wake_at
    }

    /// A machine was heard of, or is somewhere new.
    pub(super) fn learned(&mut self, peer: PeerKey, beyond: bool, directory: bool, now: Moment) {
        if peer == self.own {
            return;
        }
        let candidate = self.candidates.entry(peer).or_default();
        candidate.beyond = beyond;
        candidate.directory = directory;
        if candidate.link.is_none() && !candidate.dialling {
            candidate.failures = 0;
            candidate.retry_at = now;
        }
        self.wake(now);
    }

    /// A machine is connected. `bootstrap`: it is one of the bootstrap peers.
    pub(super) fn connected(
        &mut self,
        peer: PeerKey,
        beyond: bool,
        directory: bool,
        bootstrap: bool,
        now: Moment,
    ) {
        let candidate = self.candidates.entry(peer).or_default();
        candidate.beyond = beyond;
        candidate.directory = directory;
        candidate.dialling = false;
        candidate.link.get_or_insert(Link { since: now, busy_until: now });
        if bootstrap || directory {
            self.bootstrapped = true;
            self.bootstrap_attempts = 0;
        }
        // A new neighbour may know whom we lack.
        self.asks = 0;
        self.ask_at = now;
        self.wake(now);
    }

    /// A machine's last connection is gone.
    pub(super) fn disconnected(&mut self, peer: PeerKey, now: Moment) {
        if let Some(candidate) = self.candidates.get_mut(&peer)
            && let Some(link) = candidate.link.take()
        {
            candidate.failures =
                if now.since(link.since) >= SOUND_AFTER { 0 } else { candidate.failures.saturating_add(1) };
            candidate.retry_at = now.after(redial_delay(&self.own, &peer, candidate.failures));
        }
        if self.links().next().is_none() {
            // Alone: as at the start.
            self.bootstrapped = false;
            self.bootstrap_attempts = 0;
            self.bootstrap_at = now.after(redial_delay(&self.own, &peer, 0));
        }
        self.asks = 0;
        self.ask_at = now;
        self.wake(now);
    }

    /// A dial came to nothing.
    pub(super) fn dial_failed(&mut self, peer: PeerKey, now: Moment) {
        if let Some(candidate) = self.candidates.get_mut(&peer) {
            candidate.dialling = false;
            candidate.retry_at = now.after(redial_delay(&self.own, &peer, candidate.failures));
            candidate.failures = candidate.failures.saturating_add(1);
        }
        self.wake(now);
    }

    /// A connection carries a request: it is not one to close.
    pub(super) fn used(&mut self, peer: &PeerKey, now: Moment) {
        if let Some(link) = self.candidates.get_mut(peer).and_then(|candidate| candidate.link.as_mut()) {
            link.busy_until = now.after(BUSY_FOR);
        }
    }

    /// A machine misbehaved. After [`STRIKES_MAX`] misdeeds it is banned and its connections are closed.
    pub(super) fn strike(&mut self, peer: PeerKey, now: Moment) {
        if self.offences.len() >= OFFENDERS_MAX && !self.offences.contains_key(&peer) {
            let oldest = self.offences.iter().min_by_key(|(_, offence)| offence.banned_until);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.offences.remove(&oldest);
            }
        }
        let offence = self.offences.entry(peer).or_default();
        offence.strikes += 1;
        if offence.strikes >= STRIKES_MAX {
            offence.strikes = 0;
            offence.banned_until = now.after(BAN.delay(offence.bans, "lunar.mesh-ban", &[&peer.0]));
            offence.bans = offence.bans.saturating_add(1);
            self.actions.push_back(Action::Close(peer));
        }
        self.wake(now);
    }

    /// Whether a machine is banned now.
    pub(super) fn is_banned(&self, peer: &PeerKey, now: Moment) -> bool {
        self.offences.get(peer).is_some_and(|offence| offence.banned_until > now)
    }

    /// Nothing more is known of a machine.
    pub(super) fn forget(&mut self, peer: &PeerKey) {
        self.candidates.remove(peer);
    }

    /// Decides. To be called when [`Self::poll_timeout`] says so; calling it more often changes nothing.
    pub(super) fn handle_timeout(&mut self, now: Moment) {
        self.wake_at = None;
        let short_in_site = self.fill(false, self.bounds.site_connections_low, now);
        let short_beyond = self.fill(true, self.bounds.beyond_connections_low, now);
        self.trim(false, self.bounds.site_connections_high, now);
        self.trim(true, self.bounds.beyond_connections_high, now);
        self.seek(short_in_site || short_beyond, now);
        if now >= self.mix_at {
            self.mix(now);
        }
        self.wake(self.mix_at);
    }

    /// Dials what is missing of one kind; whether some is still missing then.
    fn fill(&mut self, beyond: bool, low: usize, now: Moment) -> bool {
        let have = self
            .candidates
            .values()
            .filter(|candidate| {
                candidate.beyond == beyond && (candidate.link.is_some() || candidate.dialling)
            })
            .count();
        let missing = low.saturating_sub(have);
        if missing == 0 {
            return false;
        }
        let chosen = self.dialable(beyond, now);
        let found = chosen.len();
        for peer in chosen.into_iter().take(missing) {
            self.dial(peer);
        }
        if found < missing {
            let later = self
                .candidates
                .values()
                .filter(|candidate| candidate.beyond == beyond && candidate.link.is_none())
                .filter(|candidate| !candidate.dialling && candidate.retry_at > now)
                .map(|candidate| candidate.retry_at)
                .min();
            if let Some(later) = later {
                self.wake(later);
            }
        }
        found < missing
    }

    /// Machines of one kind that may be dialled now, in the order in which this machine prefers them.
    fn dialable(&self, beyond: bool, now: Moment) -> Vec<PeerKey> {
        let mut ready: Vec<_> = self
            .candidates
            .iter()
            .filter(|(_, candidate)| candidate.beyond == beyond && candidate.link.is_none())
            .filter(|(peer, candidate)| {
                !candidate.dialling && candidate.retry_at <= now && !self.is_banned(peer, now)
            })
            .map(|(peer, candidate)| (candidate.failures, self.preference(peer), *peer))
            .collect();
        ready.sort_unstable();
        ready.into_iter().map(|(_, _, peer)| peer).collect()
    }

    fn dial(&mut self, peer: PeerKey) {
        if let Some(candidate) = self.candidates.get_mut(&peer) {
            candidate.dialling = true;
            self.actions.push_back(Action::Dial(peer));
        }
    }

    /// Closes what is too much of one kind: those liked least, but none that is young or in use.
    fn trim(&mut self, beyond: bool, high: usize, now: Moment) {
        let mut links: Vec<_> = self
            .candidates
            .iter()
            .filter(|(_, candidate)| candidate.beyond == beyond)
            .filter_map(|(peer, candidate)| Some((candidate.link?, *peer)))
            .map(|(link, peer)| (link.busy_until.max(link.since.after(GRACE)), self.preference(&peer), peer))
            .collect();
        let excess = links.len().saturating_sub(high);
        if excess == 0 {
            return;
        }
        links.sort_unstable_by_key(|(_, preference, _)| std::cmp::Reverse(*preference));
        let (idle, busy): (Vec<_>, Vec<_>) = links.into_iter().partition(|(until, _, _)| *until <= now);
        let closed = idle.len().min(excess);
        for (_, _, peer) in idle.into_iter().take(excess) {
            self.actions.push_back(Action::Close(peer));
        }
        if closed < excess
            && let Some((until, _, _)) = busy.iter().min()
        {
            self.wake(*until);
        }
    }

    /// Asks neighbours for more machines, and goes back to the bootstrap peers, as long as it is needed.
    fn seek(&mut self, short: bool, now: Moment) {
        if short {
            if now >= self.ask_at {
                let round = self.asks.to_le_bytes();
                let asked = self
                    .links()
                    .min_by_key(|(peer, candidate)| {
                        // Directories first, but every other time anybody: they may all be strangers to us.
                        let rank = !candidate.directory && self.asks.is_multiple_of(2);
                        (rank, draw("lunar.mesh-ask", &[&self.own.0, &peer.0, &round]))
                    })
                    .map(|(peer, _)| *peer);
                if let Some(peer) = asked {
                    self.actions.push_back(Action::Ask(peer));
                }
                self.ask_at = now.after(ASKING.delay(self.asks, "lunar.mesh-ask", &[&self.own.0]));
                self.asks = self.asks.saturating_add(1);
            }
            self.wake(self.ask_at);
        }
        let directory = self.links().any(|(_, candidate)| candidate.directory);
        if !self.bootstrapped || (short && !directory) {
            if now >= self.bootstrap_at {
                self.actions.push_back(Action::Bootstrap);
                let wait = BOOTSTRAP.delay(self.bootstrap_attempts, "lunar.mesh-bootstrap", &[&self.own.0]);
                self.bootstrap_at = now.after(wait);
                self.bootstrap_attempts = self.bootstrap_attempts.saturating_add(1);
            }
            self.wake(self.bootstrap_at);
        }
    }

    /// Dials somebody new although nobody is missing; [`Self::trim`] lets somebody else go for it later.
    fn mix(&mut self, now: Moment) {
        // With lower bounds of nothing, the configuration says that others do the choosing.
        let beyond = self.mixes.is_multiple_of(2);
        for beyond in [beyond, !beyond] {
            let low =
                if beyond { self.bounds.beyond_connections_low } else { self.bounds.site_connections_low };
            let round = self.mixes.to_le_bytes();
            let chosen = self
                .dialable(beyond, now)
                .into_iter()
                .min_by_key(|peer| draw("lunar.mesh-mix", &[&self.own.0, &peer.0, &round]));
            if let (Some(peer), true) = (chosen, low > 0) {
                self.dial(peer);
                break;
            }
        }
        self.plan_next_mix(now);
    }

    fn plan_next_mix(&mut self, now: Moment) {
        self.mixes += 1;
        let spread_ms =
            draw_below(millis(MIX_INTERVAL), "lunar.mesh-mix-at", &[&self.own.0, &self.mixes.to_le_bytes()]);
        self.mix_at = now.after(MIX_INTERVAL + Duration::from_millis(spread_ms));
    }

    /// Lower is better; every machine prefers others, so that no machine is everybody's choice.
    fn preference(&self, peer: &PeerKey) -> u64 {
        draw("lunar.mesh-neighbour", &[&self.own.0, &peer.0])
    }

    fn links(&self) -> impl Iterator<Item = (&PeerKey, &Candidate)> {
        self.candidates.iter().filter(|(_, candidate)| candidate.link.is_some())
    }

    fn wake(&mut self, at: Moment) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

fn redial_delay(own: &PeerKey, peer: &PeerKey, failures: u32) -> Duration {
    REDIAL.delay(failures, "lunar.mesh-redial", &[&own.0, &peer.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: PeerKey = PeerKey([0; 32]);

    fn peer(number: u8) -> PeerKey {
        PeerKey([number; 32])
    }

    fn seconds(number: u64) -> Moment {
        Moment(number * 1000)
    }

    fn neighbours() -> Neighbours {
        Neighbours::new(OWN, MeshBounds::agent(), Moment(0))
    }

    fn decide(neighbours: &mut Neighbours, now: Moment) -> Vec<Action> {
        neighbours.handle_timeout(now);
        std::iter::from_fn(|| neighbours.poll_action()).collect()
    }

    fn dials(actions: &[Action]) -> Vec<PeerKey> {
        actions
            .iter()
            .filter_map(|action| match action {
                Action::Dial(peer) => Some(*peer),
                Action::Close(_) | Action::Ask(_) | Action::Bootstrap => None,
            })
            .collect()
    }

    fn connect_all(neighbours: &mut Neighbours, peers: std::ops::Range<u8>, beyond: bool, now: Moment) {
        for number in peers {
            neighbours.connected(peer(number), beyond, false, false, now);
        }
    }

    #[test]
    fn a_machine_alone_goes_to_the_bootstrap_peers_with_back_off() {
        let mut neighbours = neighbours();
        assert_eq!(decide(&mut neighbours, Moment(0)), [Action::Bootstrap]);
        assert_eq!(decide(&mut neighbours, Moment(1)), []);
        let mut last = Moment(0);
        let mut waits = Vec::new();
        for _ in 0..12 {
            let at = neighbours.poll_timeout().unwrap();
            if decide(&mut neighbours, at).contains(&Action::Bootstrap) {
                waits.push(at.since(last));
                last = at;
            }
        }
        assert!(waits.windows(2).all(|pair| pair[1] >= pair[0].mul_f64(0.9)), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(66)));
    }

    #[test]
    fn what_is_missing_is_dialled_and_no_more() {
        let mut neighbours = neighbours();
        for number in 1..=20 {
            neighbours.learned(peer(number), false, false, Moment(0));
        }
        for number in 21..=30 {
            neighbours.learned(peer(number), true, false, Moment(0));
        }
        let actions = decide(&mut neighbours, Moment(0));
        assert_eq!(dials(&actions).len(), 6 + 2);
        assert_eq!(dials(&decide(&mut neighbours, Moment(1))), [], "those under way count");
    }

    #[test]
    fn two_machines_choose_different_neighbours() {
        let choice = |own| {
            let mut neighbours = Neighbours::new(own, MeshBounds::agent(), Moment(0));
            for number in 1..=60 {
                neighbours.learned(peer(number), false, false, Moment(0));
            }
            dials(&decide(&mut neighbours, Moment(0)))
        };
        assert_eq!(choice(peer(100)), choice(peer(100)));
        assert_ne!(choice(peer(100)), choice(peer(101)));
    }

    #[test]
    fn a_failed_dial_is_tried_again_later_and_others_come_first() {
        let mut neighbours = neighbours();
        for number in 1..=7 {
            neighbours.learned(peer(number), false, false, Moment(0));
        }
        let first = dials(&decide(&mut neighbours, Moment(0)));
        let seventh = (1..=7).map(peer).find(|peer| !first.contains(peer)).unwrap();
        neighbours.dial_failed(first[0], Moment(10));
        assert_eq!(dials(&decide(&mut neighbours, Moment(10))), [seventh]);
        neighbours.dial_failed(seventh, Moment(20));
        assert_eq!(dials(&decide(&mut neighbours, Moment(30))), []);
        let again = dials(&decide(&mut neighbours, seconds(2)));
        assert_eq!(again.len(), 1, "{again:?}");
        assert!(again[0] == first[0] || again[0] == seventh);
    }

    #[test]
    fn too_many_are_closed_but_neither_young_nor_busy_ones() {
        let mut neighbours = neighbours();
        connect_all(&mut neighbours, 1..16, false, Moment(0));
        assert!(!decide(&mut neighbours, seconds(1)).iter().any(|a| matches!(a, Action::Close(_))));
        for number in 1..14 {
            neighbours.used(&peer(number), seconds(29));
        }
        let closed: Vec<_> = decide(&mut neighbours, seconds(31))
            .into_iter()
            .filter(|action| matches!(action, Action::Close(_)))
            .collect();
        assert_eq!(closed.len(), 2, "three too many, but only two are idle: {closed:?}");
        assert!(closed.iter().all(|a| [Action::Close(peer(14)), Action::Close(peer(15))].contains(a)));
        assert!(neighbours.poll_timeout().unwrap() <= seconds(89), "it comes back when one is idle");
    }

    #[test]
    fn whoever_lacks_neighbours_asks_for_more_and_rests_once_it_has_enough() {
        let mut neighbours = neighbours();
        neighbours.connected(peer(1), false, true, true, Moment(0));
        assert_eq!(decide(&mut neighbours, Moment(0)), [Action::Ask(peer(1))]);
        assert_eq!(decide(&mut neighbours, Moment(1)), []);
        connect_all(&mut neighbours, 2..8, false, Moment(2));
        connect_all(&mut neighbours, 8..11, true, Moment(2));
        assert_eq!(decide(&mut neighbours, Moment(3)), []);
        assert!(
            neighbours.poll_timeout().unwrap() >= Moment(millis(MIX_INTERVAL)),
            "nothing to do till mixing"
        );
    }

    #[test]
    fn a_satisfied_machine_still_tries_somebody_new_now_and_then() {
        let mut neighbours = neighbours();
        connect_all(&mut neighbours, 1..8, false, Moment(0));
        neighbours.connected(peer(8), true, true, true, Moment(0));
        connect_all(&mut neighbours, 9..11, true, Moment(0));
        neighbours.learned(peer(50), true, false, Moment(0));
        assert_eq!(decide(&mut neighbours, Moment(1)), []);
        let mix_at = neighbours.poll_timeout().unwrap();
        assert_eq!(decide(&mut neighbours, mix_at), [Action::Dial(peer(50))]);
    }

    #[test]
    fn the_third_misdeed_bans_and_the_next_ban_is_longer() {
        let mut neighbours = neighbours();
        neighbours.connected(peer(1), false, false, true, Moment(0));
        decide(&mut neighbours, Moment(0));
        neighbours.strike(peer(1), Moment(0));
        neighbours.strike(peer(1), Moment(0));
        assert!(!neighbours.is_banned(&peer(1), Moment(0)));
        neighbours.strike(peer(1), Moment(0));
        assert!(neighbours.is_banned(&peer(1), seconds(29)));
        assert!(!neighbours.is_banned(&peer(1), seconds(34)));
        assert!(decide(&mut neighbours, Moment(1)).contains(&Action::Close(peer(1))));
        for _ in 0..3 {
            neighbours.strike(peer(1), seconds(40));
        }
        assert!(neighbours.is_banned(&peer(1), seconds(99)));
    }

    #[test]
    fn the_last_neighbour_gone_means_starting_over() {
        let mut neighbours = neighbours();
        decide(&mut neighbours, Moment(0));
        neighbours.connected(peer(1), false, true, true, Moment(1));
        decide(&mut neighbours, Moment(1));
        neighbours.disconnected(peer(1), seconds(100));
        let at = neighbours.poll_timeout().unwrap();
        let mut actions = decide(&mut neighbours, at);
        while !actions.contains(&Action::Bootstrap) {
            let at = neighbours.poll_timeout().unwrap();
            assert!(at <= seconds(103), "{at:?}");
            actions = decide(&mut neighbours, at);
        }
    }

    #[test]
    fn lower_bounds_of_nothing_leave_the_choosing_to_others() {
        let bounds = MeshBounds { site_connections_low: 0, beyond_connections_low: 0, ..MeshBounds::agent() };
        let mut neighbours = Neighbours::new(OWN, bounds, Moment(0));
        assert_eq!(decide(&mut neighbours, Moment(0)), [Action::Bootstrap]);
        neighbours.connected(peer(1), false, false, true, Moment(1));
        for number in 2..20 {
            neighbours.learned(peer(number), false, false, Moment(1));
        }
        assert_eq!(decide(&mut neighbours, Moment(2)), []);
        let mix_at = neighbours.poll_timeout().unwrap();
        assert_eq!(decide(&mut neighbours, mix_at), []);
    }
}
