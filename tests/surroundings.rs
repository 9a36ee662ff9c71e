//! A machine that refuses: disks that are full or read-only, under whole programs.
//!
//! Owns what an agent does then. Main invariant: its server stays on the version that it runs, the agent says
//! where it could not write, and goes on by itself when there is room.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lunar_tests::{CAMPAIGN, Ended, Events, Fleet, Part, SmallDisk, programs, run, wait_for, wait_until};

/// Starts at once, and tries again soon and often.
const AGAIN_AND_AGAIN: &[(&str, &str)] = &[
    ("window_s = 4", "window_s = 0"),
    ("jitter_s = 1", "jitter_s = 0"),
    ("attempts_max = 1", "attempts_max = 100"),
    ("base_s = 60", "base_s = 1"),
    ("cap_s = 900", "cap_s = 1"),
];

/// More than the agent's store and log take, less than the artifact of 6 MiB.
const ROOM_BYTES: u64 = 3 * 1024 * 1024;

#[test]
fn an_agent_without_room_for_the_artifact_says_so_keeps_the_old_version_and_goes_on_with_room() {
    let fleet = Fleet::found(1);
    let server = &fleet.servers()[0];
    fleet.replan(AGAIN_AND_AGAIN);
    let agent = Part::Agent(server.clone());
    let crashed = fleet.crash(&agent);
    fleet.restart_on_a_full_disk(&agent, &crashed, ROOM_BYTES);
    fleet.publish();

    wait_until("the agent to say what it could not keep", || {
        let log = fleet.log(server);
        log.contains("cannot be kept on this server") && log.contains("packs")
    });
    wait_until("the coordinator to know", || {
        fleet.operator(&["history", server]).out.contains("cannot fetch")
    });
    assert_eq!(fleet.version_on(server), "1.0");
    assert_eq!(fleet.served_version(server).as_deref(), Some("1.0"));

    fleet.free_the_disk(&agent);
    let events = fleet.wait_until_over(fleet.servers());

    assert_eq!(events.outcomes(server).last().unwrap(), "completed");
    assert_eq!(fleet.version_on(server), "2.0");
    fleet.check_audit();
}

#[test]
fn an_applier_on_a_full_disk_stops_and_names_its_store_and_the_server_stays_up_until_there_is_room() {
    let fleet = Fleet::found(1);
    let server = &fleet.servers()[0];
    fleet.replan(AGAIN_AND_AGAIN);
    let applier = Part::Applier(server.clone());
    let crashed = fleet.crash(&applier);
    let log = || fleet.log(&format!("{server}-applier"));
    // Enough for its words on standard error, too little for its store.
    fleet.restart_on_a_full_disk(&applier, &crashed, 64 * 1024);
    fleet.publish();

    wait_until("the applier to stop", || {
        log().contains("cannot write the store") && fleet.find(&applier).is_none()
    });
    let store = fleet.of(server, "applier/store").display().to_string();
    assert!(log().contains(&store) && log().contains("Free space on the disk"), "{}", log());
    assert_eq!(fleet.served_version(server).as_deref(), Some("1.0"));
    assert!(fleet.status_of(server).is_some(), "its other half goes on");

    fleet.restart(&applier, &crashed);
    let events = fleet.wait_until_over(fleet.servers());

    assert_eq!(events.outcomes(server).last().unwrap(), "completed");
    assert_eq!(fleet.version_on(server), "2.0");
    fleet.check_audit();
}

#[test]
fn an_applier_out_of_room_while_it_unpacks_leaves_nothing_half_made_and_goes_on_with_room() {
    let fleet = Fleet::found(1);
    let server = &fleet.servers()[0];
    let Some(disk) = SmallDisk::at(&fleet.of(server, "srv/web/releases")) else { return };
    fleet.replan(AGAIN_AND_AGAIN);
    let part = Part::Applier(server.clone());
    let crashed = fleet.crash(&part);
    // Bytes enough, so that it begins; and names enough for the old version and a third of the new one.
    fleet.restart(&part, &disk.under(&crashed, "size=64m,nr_inodes=40"));
    let applier = wait_for("the applier to be up", || fleet.find(&part));
    fleet.publish();

    let history = || fleet.operator(&["history", server]).out;
    wait_until("the coordinator to know what there is no room for", || {
        history().contains("cannot unpack web") && history().contains("No space left on device")
    });
    let told = history();
    let place = fleet.of(server, "srv/web/releases").display().to_string();
    assert!(told.contains(&place), "where: {told}");
    assert!(told.contains("make room"), "what next: {told}");
    assert_eq!(fleet.served_version(server).as_deref(), Some("1.0"));
    let events = Events::of(&fleet).unwrap();
    assert_eq!(events.of_kind("Granted").count(), 0, "unpacking needs no lease");
    let half = disk.inside(&applier, "ls -a \"$0\" | grep -c unpacking");
    assert_eq!(half.out.trim(), "0", "nothing half-made is left to fill the disk: {}", half.err);

    let freed = disk.inside(&applier, "mount -o remount,nr_inodes=1000 \"$0\"");
    assert_eq!(freed.code, 0, "{}", freed.err);
    let events = fleet.wait_until_over(fleet.servers());

    assert_eq!(events.outcomes(server).last().unwrap(), "completed");
    assert_eq!(fleet.served_version(server).as_deref(), Some("2.0"));
    fleet.check_audit();
}

#[test]
fn an_applier_out_of_room_under_its_lease_ends_on_the_old_version_and_gives_the_lease_back() {
    let fleet = Fleet::found(1);
    let server = &fleet.servers()[0];
    let Some(disk) = SmallDisk::at(&fleet.of(server, "srv/web")) else { return };
    fleet.replan(&[("window_s = 4", "window_s = 0"), ("jitter_s = 1", "jitter_s = 0")]);
    let part = Part::Applier(server.clone());
    let crashed = fleet.crash(&part);
    fleet.restart(&part, &disk.under(&crashed, "size=64m,nr_inodes=1000"));
    let applier = wait_for("the applier to be up", || fleet.find(&part));
    // Without a coordinator it unpacks, and waits for a lease.
    let coordinator = fleet.crash(&Part::Coordinator);
    let plan = fleet.home().join(format!("plans/{CAMPAIGN}-1.toml")).display().to_string();
    let via = format!("unix:{}", fleet.of(server, "run/agent.sock").display());
    let published = fleet.operator(&["plan", "publish", &plan, "--via", &via]);
    assert_eq!(published.code, 0, "{}", published.err);
    wait_until("the new version to be unpacked", || {
        fleet.status_of(server).is_some_and(|status| status["node"]["active"]["phase"] == "queued")
    });
    // Not one name is left: the new link cannot be made.
    let filled =
        disk.inside(&applier, "mkdir \"$0/fill\"; n=0; while : > \"$0/fill/$n\"; do n=$((n+1)); done");
    assert!(filled.err.contains("No space left on device"), "{}", filled.err);

    fleet.restart(&Part::Coordinator, &coordinator);
    let events = fleet.wait_until_over(fleet.servers());

    let outcome = events.outcomes(server).last().unwrap().to_string();
    assert!(outcome.contains("rolled-back") && outcome.contains("No space left on device"), "{outcome}");
    assert!(outcome.contains("srv/web/.current.next"), "where: {outcome}");
    assert_eq!(fleet.served_version(server).as_deref(), Some("1.0"));
    let link = disk.inside(&applier, "cat \"$0/current/version\"");
    assert_eq!(link.out.trim(), "1.0", "{}", link.err);
    assert_eq!(fleet.ask(&["lease", "list"]).as_array().unwrap().len(), 0);
    fleet.check_audit();
}

#[test]
fn agent_and_applier_on_a_read_only_directory_are_refused_with_the_directory() {
    let fleet = Fleet::found(1);
    let server = &fleet.servers()[0];
    for (part, command, state) in [
        (Part::Agent(server.clone()), ["run", "--config"], "state"),
        (Part::Applier(server.clone()), ["apply", "--config"], "applier"),
    ] {
        let crashed = fleet.crash(&part);
        let config = crashed.words.last().unwrap().to_str().unwrap().to_owned();
        let own = fleet.of(server, state);
        assert!(own.is_dir(), "{} is where it keeps its state", own.display());
        let program = programs().agent.display().to_string();
        let refused = read_only(&own, &fleet.home(), &[&program, command[0], command[1], &config]);
        refused.is_refused(6, &[&own.display().to_string()]);
    }
}

/// Runs a program while a directory cannot be written. Permissions do not bind root, who gets a read-only mount
/// that nobody else sees.
fn read_only(directory: &Path, home: &Path, words: &[&str]) -> Ended {
    if nix::unistd::geteuid().is_root() {
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
        let place = directory.to_str().unwrap();
        return run(Path::new("unshare"), home, [&["-m", "sh", "-c", script, place], words].concat());
    }
    let allow = |mode| fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o500);
    let ended = run(Path::new(words[0]), home, &words[1..]);
    allow(0o700);
    ended
}
