//! What is never done to a world, and why.
//!
//! Owns [`ATLAS`]. Main invariant: a fault that the design does not claim to survive is named here with the reason,
//! and a strike that would have been one says that it was masked: nothing is left out in silence.

use crate::world::World;

/// One thing that is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    /// Its short name.
    pub name: &'static str,
    /// What is not done, or not held against the cores.
    pub what: &'static str,
    /// Why.
    pub why: &'static str,
}

/// All of them.
pub const ATLAS: [Masked; 11] = [
    Masked {
        name: "two-logs",
        what: "two coordinators that each write a log of their own",
        why: "DESIGN 9, rule 8: one authority for a group. The store is locked by its writer; an old life that goes \
              on answering without it is injected (two-coordinators)",
    },
    Masked {
        name: "restore-in-flight",
        what: "a backup put back while messages of the life before are on their way",
        why: "connections die with the process, and nobody restores a machine within seconds",
    },
    Masked {
        name: "lease-forgotten",
        what: "S1 for a server whose lease a restored log has forgotten, until the coordinator was told",
        why: "DESIGN 9, rule 7: nothing is granted in that time, and S2 goes on counting the server",
    },
    Masked {
        name: "lost-with-the-log",
        what: "transitions that an older copy of the log no longer has (S11, L5: complete), once one was put back",
        why: "agents drop what the coordinator said is durable; nothing may be there twice even then",
    },
    Masked {
        name: "boot-old-after-commit",
        what: "a machine that boots the old release after the new one was committed",
        why: "a release is what one link says, which is durable before the commit; slots that a boot loader chooses \
              come with installers that have them",
    },
    Masked {
        name: "bit-flip-in-use",
        what: "a bit that turns in a release from the begin of the switch on, or in the one that runs",
        why: "nothing verifies what already runs; the verification that counts is the one right before the switch",
    },
    Masked {
        name: "most-machines-lost",
        what: "three tenths of the machines lost for good or put out, or more",
        why: "with most of a fleet gone there is nothing left to converge to",
    },
    Masked {
        name: "group-is-wrong",
        what: "S4 and S5 for a server that was enrolled into the wrong group, once it was",
        why: "groups come from the signed enrolment alone (DESIGN 5): protecting a group that nobody named is not \
              claimed. All limits that do not need the group still hold",
    },
    Masked {
        name: "reap-of-the-living",
        what: "a lease reaped while its holder is alive and only silent",
        why: "a signed reap is a person's word that the server is down and stays so (DESIGN 9, rule 2)",
    },
    Masked {
        name: "lost-after-sync",
        what: "a record or a release lost after its write was reported as durable",
        why: "the shells flush and fdatasync before they go on; a disk that lies about it survives nothing. Writes \
              that were not yet reported are lost, torn and refused (agent-crash, applier-crash, disk-full)",
    },
    Masked {
        name: "moments-go-back",
        what: "a steady clock that goes back",
        why: "CLOCK_BOOTTIME is monotonic by the kernel's contract; it drifts here, and the wall's clock steps",
    },
];

impl World {
    /// A strike would have been one of these.
    pub(super) fn mask(&mut self, name: &'static str) {
        let masked = ATLAS.iter().find(|masked| masked.name == name).expect("every mask is in the atlas");
        self.note(&format!("masked: {}: {}", masked.name, masked.why));
        self.masked.insert(masked.name);
    }
}

#[cfg(test)]
mod tests {
    use super::ATLAS;

    #[test]
    fn every_entry_of_the_atlas_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = ATLAS.iter().map(|masked| masked.name).collect();
        assert_eq!(names.len(), ATLAS.len());
    }
}
