//! Probe `memory`: what may still be had without swapping.
//!
//! Owns the reading of it. Main invariant: a machine that tells no figure is inconclusive, never healthy.
//! Refuses to look at processes.

use lunar_common::health::Outcome;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::{inconclusive, unhealthy};

pub(super) fn ask(available_bytes_min: u64) -> Outcome {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    match System::new_with_specifics(kind) {
        Ok(system) if system.total_memory() > 0 => judge(system.available_memory(), available_bytes_min),
        Ok(_) => inconclusive("this machine does not tell how much memory it has"),
        Err(error) => inconclusive(format!("this machine does not tell its memory: {error}")),
    }
}

fn judge(available: u64, wanted: u64) -> Outcome {
    if available >= wanted {
        Outcome::Healthy
    } else {
        unhealthy(format!("{available} bytes of memory are available, {wanted} are wanted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_machine_has_some_memory_and_never_all_there_could_be() {
        assert_eq!(ask(1), Outcome::Healthy);
        assert!(matches!(ask(u64::MAX), Outcome::Unhealthy { .. }));
        assert_eq!(judge(10, 10), Outcome::Healthy);
    }
}
