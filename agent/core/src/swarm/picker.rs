//! Which chunk next: rarest first, over what connected peers really have.
//!
//! Owns [`Picker`]: one artifact's chunks, how many copies of each could be had, and the order in which they
//! are asked for. Main invariant: the order is kept up to date by every change, one chunk at a time; nothing
//! is ever counted again from the start. A chunk that is held or under way is in no order.

use std::collections::BTreeSet;
use std::time::Duration;

use lunar_common::have_set::HaveSet;
use lunar_common::order::draw;

use super::duty::Duty;
use super::peers::Class;

/// Copies in the site, of those that are connected, from which on one more helps nobody at once: half of what are
/// asked at a time.
const COMMON_AT: u16 = 4;

/// One artifact's chunks.
#[derive(Debug, Clone)]
pub(super) struct Picker {
    frame_bytes: Vec<u32>,
    frame_bytes_mean: u64,
    frame_bytes_max: u64,
    have: HaveSet,
    had: u32,
    under_way: Vec<bool>,
    copies_site: Vec<u16>,
    copies_sites: Vec<u16>,
    taken_site: Vec<u16>,
    taken_sites: Vec<u16>,
    tie: u64,
    ready: [BTreeSet<(u32, u64, u32)>; 3],
    place: Vec<Option<(Class, u32)>>,
}

/// What the picker needs to know from outside to put a chunk in its place.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Who fetches what.
    pub(super) duty: &'a Duty,
    /// The Earth link may be used: have-sets had time to arrive.
    pub(super) settled: bool,
    /// Everything stalls: duties do not count.
    pub(super) helping_oneself: bool,
}

impl Picker {
    /// An artifact's chunks; `key` makes one server's ties differ from another's.
    pub(super) fn new(frame_bytes: Vec<u32>, have: HaveSet, key: &[&[u8]]) -> Self {
        let count = frame_bytes.len();
        let had = have.count();
        let sum: u64 = frame_bytes.iter().map(|bytes| u64::from(*bytes)).sum();
        Self {
            frame_bytes_mean: (sum / frame_bytes.len().max(1) as u64).max(1),
            frame_bytes_max: frame_bytes.iter().max().copied().unwrap_or(0).into(),
            frame_bytes,
            have,
            had,
            under_way: vec![false; count],
            copies_site: vec![0; count],
            copies_sites: vec![0; count],
            taken_site: vec![0; count],
            taken_sites: vec![0; count],
            tie: draw("swarm tie", key),
            ready: [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()],
            place: vec![None; count],
        }
    }

    /// How many chunks there are.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.frame_bytes.len()).unwrap_or(u32::MAX)
    }

    /// How many are here.
    pub(super) fn had(&self) -> u32 {
        self.had
    }

    /// Whether all are here.
    pub(super) fn is_complete(&self) -> bool {
        self.had == self.len()
    }

    /// What is here.
    pub(super) fn have(&self) -> &HaveSet {
        &self.have
    }

    /// A chunk's frame length.
    pub(super) fn frame_bytes(&self, chunk: u32) -> u32 {
        self.frame_bytes.get(chunk as usize).copied().unwrap_or(0)
    }

    /// The mean frame length, at least 1.
    pub(super) fn frame_bytes_mean(&self) -> u64 {
        self.frame_bytes_mean
    }

    /// Whether a chunk is neither here nor under way.
    pub(super) fn is_idle(&self, chunk: u32) -> bool {
        chunk < self.len() && !self.have.contains(chunk) && !self.under_way[chunk as usize]
    }

    /// Whether so few in the site have a chunk that somebody may wait for one more.
    pub(super) fn is_rare_in_site(&self, chunk: u32) -> bool {
        self.copies_site.get(chunk as usize).is_none_or(|copies| *copies < COMMON_AT)
    }

    /// Whether anybody who can be counted on has a chunk.
    pub(super) fn has_copies(&self, chunk: u32) -> bool {
        let index = chunk as usize;
        self.copies_site.get(index).is_some_and(|copies| *copies > 0)
            || self.copies_sites.get(index).is_some_and(|copies| *copies > 0)
    }

    /// Whether two who can be counted on have a chunk: one of them may still turn out not to.
    pub(super) fn has_two_copies(&self, chunk: u32) -> bool {
        let copies = |of: &[u16]| of.get(chunk as usize).copied().unwrap_or(0);
        copies(&self.copies_site).saturating_add(copies(&self.copies_sites)) >= 2
    }

    /// A part of a time, drawn by this server for a chunk.
    pub(super) fn part_of(&self, whole: Duration, chunk: u32) -> Duration {
        let thousandth = (self.tie_of(chunk) >> 32) * 1_000 >> 32;
        whole * u32::try_from(thousandth).unwrap_or(0) / 1_000
    }

    /// The largest frame's length.
    pub(super) fn frame_bytes_max(&self) -> u64 {
        self.frame_bytes_max
    }

    /// A chunk is here.
    pub(super) fn got(&mut self, chunk: u32, rules: Rules<'_>) {
        if self.have.insert(chunk) {
            self.had += 1;
        }
        self.under_way[chunk as usize] = false;
        self.settle(chunk, rules);
    }

    /// A chunk is under way, or not any more.
    pub(super) fn set_under_way(&mut self, chunk: u32, under_way: bool, rules: Rules<'_>) {
        self.under_way[chunk as usize] = under_way;
        self.settle(chunk, rules);
    }

    /// A copy of a chunk appeared (`by` 1) or went (`by` -1).
    pub(super) fn copy(&mut self, chunk: u32, class: Class, by: i16, rules: Rules<'_>) {
        match class {
            Class::Site => bump(&mut self.copies_site[chunk as usize], by),
            Class::Sites => bump(&mut self.copies_sites[chunk as usize], by),
            Class::Earth => return,
        }
        self.settle(chunk, rules);
    }

    /// A member began to fetch a chunk for others (`by` 1) or gave it up (`by` -1).
    pub(super) fn taking(&mut self, chunk: u32, class: Class, by: i16, rules: Rules<'_>) {
        match class {
            Class::Site => bump(&mut self.taken_site[chunk as usize], by),
            Class::Sites => bump(&mut self.taken_sites[chunk as usize], by),
            Class::Earth => return,
        }
        self.settle(chunk, rules);
    }

    /// Duties changed: every chunk is put in its place again.
    pub(super) fn settle_all(&mut self, rules: Rules<'_>) {
        for chunk in 0..self.len() {
            self.settle(chunk, rules);
        }
    }

    /// The chunks that could be asked for at sources of a class, rarest first.
    pub(super) fn ready(&self, class: Class) -> impl Iterator<Item = u32> + '_ {
        self.ready[class as usize].iter().map(|(_, _, chunk)| *chunk)
    }

    /// Whether any chunk could be asked for at sources of a class.
    pub(super) fn is_ready(&self, class: Class) -> bool {
        !self.ready[class as usize].is_empty()
    }

    /// Puts one chunk where it belongs now.
    fn settle(&mut self, chunk: u32, rules: Rules<'_>) {
        let place = self.place_of(chunk, rules);
        let tie = self.tie_of(chunk);
        if self.place[chunk as usize] == place {
            return;
        }
        if let Some((class, copies)) = self.place[chunk as usize] {
            self.ready[class as usize].remove(&(copies, tie, chunk));
        }
        if let Some((class, copies)) = place {
            self.ready[class as usize].insert((copies, tie, chunk));
        }
        self.place[chunk as usize] = place;
    }

    /// At sources of which class a chunk may be asked for, and how rare it is.
    fn place_of(&self, chunk: u32, rules: Rules<'_>) -> Option<(Class, u32)> {
        let index = chunk as usize;
        if self.have.contains(chunk) || self.under_way[index] {
            return None;
        }
        let copies = u32::from(self.copies_site[index]) + u32::from(self.copies_sites[index]);
        if self.copies_site[index] > 0 {
            return Some((Class::Site, copies));
        }
        if copies > 0 {
            let ours = rules.duty.is_importer(chunk) || rules.helping_oneself;
            return (ours && self.taken_site[index] == 0).then_some((Class::Sites, copies));
        }
        let taken = self.taken_site[index] > 0 || self.taken_sites[index] > 0;
        let ours = rules.duty.is_earth_fetcher(chunk) || rules.helping_oneself;
        (rules.settled && ours && !taken).then_some((Class::Earth, 0))
    }

    /// Chunks equally rare are taken in an order of one's own, or all members would fetch the same ones.
    fn tie_of(&self, chunk: u32) -> u64 {
        (self.tie ^ u64::from(chunk)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
            ^ self.tie.wrapping_mul(u64::from(chunk) | 1)
    }
}

fn bump(count: &mut u16, by: i16) {
    *count = count.saturating_add_signed(by);
}
