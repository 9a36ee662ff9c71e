//! Bad input to whole programs: each is told apart by its exit code, and says what, where and what next.
//!
//! Owns the exit codes as a script sees them. Main invariant: a refused program leaves the running fleet as it
//! was.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;

use lunar_tests::{CAMPAIGN, Fleet, Part, programs, run, wait_until};

#[test]
fn agents_that_may_not_run_are_refused_each_with_its_own_exit_code() {
    let fleet = Fleet::found(1);
    let server = &fleet.servers()[0];
    let before = fleet.status_of(server).unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let stray = fleet.of(server, "etc/stray-key").display().to_string();
    let key = fleet.of(server, "etc/key").display().to_string();

    let running = fleet.on(server, &["run"]);
    let misspelt = run_as(&fleet, "misspelt", |text| text.replace("packs =", "pakcs ="));
    let busy = run_as(&fleet, "busy", |text| text.replacen("127.0.0.1:0", &port, 1));
    let made = run_as_with(&fleet, "stranger", &["init"], |text| text.replace(&key, &stray));
    assert_eq!(made.code, 0, "{}", made.err);
    let wrong_key = run_as(&fleet, "wrong-key", |text| text.replace(&key, &stray));

    running.is_refused(7, &["state", "another agent runs here"]);
    misspelt.is_refused(3, &["misspelt.toml", "pakcs"]);
    busy.is_refused(6, &[&port]);
    wrong_key.is_refused(4, &["enrolment.toml", "binds key", "lunar-agent init"]);
    let after = fleet.status_of(server).unwrap();
    assert_eq!((&after["peers"], &after["coordinators"]), (&before["peers"], &before["coordinators"]));
}

#[test]
fn appliers_that_may_not_run_are_refused_each_with_its_own_exit_code() {
    let fleet = Fleet::found(1);
    let server = &fleet.servers()[0];
    let config = fleet.of(server, "etc/applier.toml");
    let written = fs::read_to_string(&config).unwrap();
    let apply = |name: &str, change: &dyn Fn(String) -> String| {
        let own = fleet.of(server, &format!("applier-{name}")).display().to_string();
        let state = fleet.of(server, "applier").display().to_string();
        let path = fleet.of(server, &format!("etc/{name}.toml"));
        let text = written.replace(&format!("state = \"{state}\""), &format!("state = \"{own}\""));
        let changed = change(text.clone());
        assert_ne!(changed, text, "{name} changes nothing, and would run for ever");
        fs::write(&path, changed).unwrap();
        let path = path.display().to_string();
        run(&programs().agent, &fleet.home(), ["apply", "--applier-config", &path])
    };
    let file = fleet.home().join("a-file");
    fs::write(&file, "").unwrap();
    let missing = fleet.home().join("nowhere.toml").display().to_string();

    let second = fleet.on(server, &["apply", "--applier-config", &config.display().to_string()]);
    let misspelt = apply("misspelt", &|text| text.replace("packs =", "pakcs ="));
    let relative = apply("relative", &|text| text.replacen("root = \"/", "root = \"", 1));
    let unwritable = apply("unwritable", &|text| {
        let own = fleet.of(server, "applier-unwritable").display().to_string();
        text.replace(&own, &file.join("x").display().to_string())
    });
    let unsigned = apply("unsigned", &|text| text.replace("enrolment.toml", "trust-root.toml"));
    let nowhere = run(&programs().agent, &fleet.home(), ["apply", "--applier-config", &missing]);

    second.is_refused(7, &["applier", "another applier runs here"]);
    misspelt.is_refused(3, &["misspelt.toml", "pakcs"]);
    relative.is_refused(3, &["relative.toml", "`root` must be an absolute path"]);
    unwritable.is_refused(6, &["a-file"]);
    unsigned.is_refused(3, &["trust-root.toml", "keys"]);
    nowhere.is_refused(3, &["nowhere.toml"]);
}

#[test]
fn a_configuration_that_is_not_there_or_cannot_be_read_ends_both_halves_alike() {
    let home = std::env::temp_dir();
    // What may be opened and not read is the machine's refusal; what is not there, or no file, is a wrong word.
    let files =
        [("/proc/self/mem", 6), ("/nowhere/x.toml", 3), ("/proc/self/status/x.toml", 3), ("/proc", 3)];
    for (file, code) in files {
        for half in ["run", "apply"] {
            run(&programs().agent, &home, [half, "--config", file]).is_refused(code, &[file]);
        }
    }
}

#[test]
fn an_agent_of_another_fleet_is_dropped_by_the_mesh() {
    let (fleet, other) = (Fleet::found(1), Fleet::found(1));
    let (server, stranger) = (&fleet.servers()[0], &other.servers()[0]);
    let crashed = fleet.crash(&Part::Coordinator);
    fleet.restart_logging(&Part::Coordinator, &crashed, "info,lunar_transport=debug");
    fleet.wait_until_all_heard();

    // Its own fleet would call it, and be let in.
    let _gone = [Part::Coordinator, Part::Origin].map(|part| other.crash(&part));
    // The stranger calls at this fleet's door: its own key and enrolment are good, but in its own fleet.
    let agent = Part::Agent(stranger.clone());
    let crashed = other.crash(&agent);
    let door = entry_of(&fleet, server);
    let config = other.of(stranger, "etc/agent.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&entry_of(&other, stranger), &door)).unwrap();
    other.restart(&agent, &crashed);
    wait_until("the stranger to be turned away", || fleet.log("coordinator").contains("dropped at the gate"));

    assert_eq!(other.status_of(stranger).unwrap()["peers"], 0);
    let members = fleet.ask(&["status", "--servers"])["servers"].as_array().unwrap().len();
    assert_eq!(members, 1, "this fleet's server, and neither its coordinator nor the stranger");
}

#[test]
fn a_plan_broken_in_five_ways_is_refused_with_the_place_and_what_to_do() {
    let fleet = Fleet::found(1);
    let plan = fs::read_to_string(fleet.home().join(format!("plans/{CAMPAIGN}-1.toml"))).unwrap();
    let broken = [
        ("misspelt", "soak_s = 2", "soak_seconds = 2", "soak_seconds"),
        ("no-limit", "fleet = 4", "fleet = 0", "fleet"),
        ("wrong-type", "generation = 1", "generation = \"one\"", "generation"),
        ("no-time", "down_s_max = 180", "down_s_max = 1", "down_s_max"),
        ("wrong-label", "${label.port}", "${label.port", "install.restart.command.command[8]"),
    ];
    for (name, from, to, says) in broken {
        assert!(plan.contains(from), "{from} is in the plan");
        let path = fleet.home().join(format!("plans/{name}.toml"));
        fs::write(&path, plan.replace(from, to)).unwrap();

        let checked = fleet.operator(&["plan", "check", &path.display().to_string()]);

        checked.is_refused(3, &[says]);
        assert!(checked.err.contains(&format!("{name}.toml")), "names the file: {}", checked.err);
    }
}

/// Runs an agent with a changed copy of the first server's configuration, and a state of its own.
fn run_as(fleet: &Fleet, name: &str, change: impl Fn(String) -> String) -> lunar_tests::Ended {
    run_as_with(fleet, name, &["run"], change)
}

fn run_as_with(
    fleet: &Fleet,
    name: &str,
    arguments: &[&str],
    change: impl Fn(String) -> String,
) -> lunar_tests::Ended {
    let server = &fleet.servers()[0];
    let mut text = fs::read_to_string(fleet.of(server, "etc/agent.toml")).unwrap();
    for own in ["state", "run", "packs"] {
        let (shared, own) = (fleet.of(server, own), fleet.of(server, &format!("{own}-{name}")));
        text = text.replace(&format!("\"{}\"", shared.display()), &format!("\"{}\"", own.display()));
    }
    let path: PathBuf = fleet.of(server, &format!("etc/{name}.toml"));
    fs::write(&path, change(text)).unwrap();
    let config = path.display().to_string();
    run(&programs().agent, &fleet.home(), [arguments, &["--config", &config]].concat())
}

/// How agents of a fleet reach its coordinator: `KEY@ADDRESS`.
fn entry_of(fleet: &Fleet, server: &str) -> String {
    let text = fs::read_to_string(fleet.of(server, "etc/agent.toml")).unwrap();
    let config: toml::Table = text.parse().unwrap();
    config["coordinators"][0].as_str().unwrap().to_owned()
}
