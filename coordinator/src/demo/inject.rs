//! What the demo can make go wrong.
//!
//! Owns the injections and when each is due. Main invariant: each happens once, at a moment told by the fleet's
//! own state (never by a clock), and whether it happened is part of the report.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lunar_common::phase::Phase;
use lunar_coordinator_core::view::ServerView;

use super::fleet::{Fleet, Server};
use super::processes::Processes;

/// Something to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Injection {
    /// Kills an agent while it downloads, and starts it again: it goes on where it was.
    KillAgent,
    /// Kills the coordinator while leases are held, and starts it again: none is lost or doubled.
    KillCoordinator,
    /// Overwrites the packs of agents that have upgraded, then starts an agent that was kept back: it refuses
    /// what they send and fetches elsewhere.
    CorruptPack,
}

impl Injection {
    /// What it is, for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::KillAgent => "an agent is killed while it downloads",
            Self::KillCoordinator => "the coordinator is killed while leases are held",
            Self::CorruptPack => "a peer's pack is corrupted",
        }
    }

    /// Does it, if its moment has come. Says what was done.
    ///
    /// # Errors
    /// A process that cannot be killed or started, a pack that cannot be written.
    pub fn try_now(
        self,
        fleet: &Fleet,
        processes: &mut Processes,
        servers: &[ServerView],
    ) -> io::Result<Option<String>> {
        match self {
            Self::KillAgent => {
                let victim = servers.iter().find(|view| is_downloading(view));
                let Some(victim) = victim.map(|view| view.member.server.to_string()) else { return Ok(None) };
                processes.crash(&victim)?;
                processes.restart(&victim)?;
                Ok(Some(format!("killed {victim} (kill -9) while it downloaded, and started it again")))
            }
            Self::KillCoordinator => {
                let active = servers.iter().filter(|view| view.lease.is_some()).count();
                if active == 0 {
                    return Ok(None);
                }
                processes.crash(super::COORDINATOR)?;
                processes.restart(super::COORDINATOR)?;
                Ok(Some(format!(
                    "killed the coordinator (kill -9) with {active} leases held, and started it again"
                )))
            }
            Self::CorruptPack => corrupt_packs(fleet, processes, servers),
        }
    }
}

/// The agent that [`Injection::CorruptPack`] keeps back.
#[must_use]
pub fn late_comer(fleet: &Fleet) -> Option<&Server> {
    fleet.servers.last()
}

fn is_downloading(view: &ServerView) -> bool {
    view.campaign().is_some_and(|status| status.phase == Phase::Downloading)
}

/// Corrupts the packs of two agents that are done, and starts the one that was kept back. A server that is done
/// needs its own pack no more, but offers it to others.
fn corrupt_packs(
    fleet: &Fleet,
    processes: &mut Processes,
    servers: &[ServerView],
) -> io::Result<Option<String>> {
    let Some(late) = late_comer(fleet) else { return Ok(None) };
    let is_done = |server: &&Server| {
        servers.iter().any(|view| {
            view.member.server.as_str() == server.id
                && view.campaign().is_some_and(|status| status.phase == Phase::Complete)
        })
    };
    let done: Vec<_> = fleet.servers.iter().filter(is_done).take(VICTIMS).collect();
    if done.len() < VICTIMS {
        return Ok(None);
    }
    for server in &done {
        for entry in fs::read_dir(server.packs())? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "pack") {
                overwrite(&path)?;
            }
        }
    }
    processes.restart(&late.id)?;
    let names: Vec<_> = done.iter().map(|server| server.id.as_str()).collect();
    Ok(Some(format!("corrupted the packs of {}, then started {}", names.join(" and "), late.id)))
}

/// Agents whose packs are corrupted.
const VICTIMS: usize = 2;

/// Zeroes 512 bytes in every 16 KiB: no frame of the usual size stays whole.
fn overwrite(pack: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(pack)?;
    let length = file.metadata()?.len();
    for offset in (0..length).step_by(16 * 1024) {
        let bytes = usize::try_from(512.min(length - offset)).unwrap_or(0);
        file.write_all_at(&[0u8; 512][..bytes], offset)?;
    }
    file.sync_all()
}
