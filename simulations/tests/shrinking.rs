//! A failing run of many strikes becomes a small one that fails in the same way, and stays in a file.
//!
//! Owns the proof that the shrinker shrinks, and the replay of the committed seeds. Main invariant: a committed
//! seed without a mutant holds now; one with a mutant is still caught by the invariant that it names.

use std::path::Path;

use lunar_simulations::seed_file::SeedFile;
use lunar_simulations::shrink::{breaks, shrink};
use lunar_simulations::{Fault, Mutant, Options};

/// Worlds that one shrinking may run.
const RUNS_MAX: u32 = 400;

#[test]
fn dozens_of_strikes_shrink_to_the_few_that_are_needed() {
    let failing = (1..=40)
        .map(|seed| Options::swarm(seed).with(&Fault::ALL).broken(Mutant::AnswersBeforeDurable))
        .find(|options| breaks(options).as_deref() == Some("S1 down only under a durable lease"))
        .expect("the mutant is caught within 40 seeds");
    let before = failing.faults.len();
    assert!(before >= 36, "only {before} strikes to begin with");

    let shrunk = shrink(&failing, "S1 down only under a durable lease", RUNS_MAX).expect("it fails");

    println!("{before} strikes became:\n{}after {} runs", shrunk.options.faults, shrunk.runs);
    assert!(!shrunk.cut_short);
    assert!((1..=3).contains(&shrunk.options.faults.len()), "{}", shrunk.options.faults);
    let file = SeedFile::of(&shrunk.options, "S1 down only under a durable lease", "a test");
    let read = SeedFile::parse(&file.to_toml()).expect("what was written can be read");
    assert_eq!(breaks(&read.options()).as_deref(), Some("S1 down only under a durable lease"));
}

#[test]
fn a_fleet_shrinks_to_the_servers_that_are_needed() {
    let failing = Options::swarm(1).with(&[]).broken(Mutant::WideLimits);
    let shrunk = shrink(&failing, "S2 limits", RUNS_MAX).expect("it fails");
    let (before, after) = (failing.scenario.servers(), shrunk.options.scenario.servers());
    assert!(after < before, "{before} servers became {after}");
}

#[test]
fn a_run_that_holds_is_not_shrunk() {
    assert!(shrink(&Options::swarm(1).with(&[]), "S2 limits", RUNS_MAX).is_none());
}

#[test]
fn every_committed_seed_goes_as_its_file_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of seeds is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no seed in {}", folder.display());
    for path in files {
        #[expect(
            clippy::disallowed_methods,
            reason = "committed data that a test reads; no core sees the disk"
        )]
        let text = std::fs::read_to_string(&path).expect("it can be read");
        let file = SeedFile::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let wanted = file.mutant.map(|_| file.invariant.clone());
        assert_eq!(breaks(&file.options()), wanted, "{}: {}", path.display(), file.what);
    }
}

#[test]
fn a_seed_file_of_another_version_says_so() {
    let refused = SeedFile::parse("format = 9\nsomething = 1\n").expect_err("there is no format 9");
    assert!(refused.to_string().contains("format 9"), "{refused}");
}
