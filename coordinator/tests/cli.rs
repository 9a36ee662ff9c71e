//! The command line when something is wrong, and what every command owes: exit codes, advice, JSON, examples.
//!
//! Owns the exit codes of `serve` and of the commands that ask it, on the real program.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use lunar_common::ids::LeaseId;
use lunar_common::time::WallTime;
use lunar_coordinator::event_log::EventLog;
use lunar_coordinator_core::event::EventBody;
use lunar_host::store::Store;
use support::{Home, Said, machine_enrolment};

/// `serve` where it must fail: a coordinator that starts after all would never end.
const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

#[test]
fn without_a_coordinator_every_question_says_that_nobody_answers_and_what_to_do() {
    let home = Home::founded([]);
    let questions: [&[&str]; 8] = [
        &["status"],
        &["watch"],
        &["why", "srv-1"],
        &["history", "srv-1"],
        &["lease", "list"],
        &["audit", "verify"],
        &["audit", "export"],
        &["status", "--servers", "--output", "json"],
    ];
    for question in questions {
        let said = home.run(question);
        assert_failed(&said, 5, "no coordinator answers");
        assert!(said.err.contains("lunar-coordinator serve"), "{question:?}: {}", said.err);
        assert_eq!(said.out, "", "{question:?}");
    }
}

#[test]
fn a_second_coordinator_on_the_same_directory_is_told_who_has_it() {
    let home = Home::founded([]);
    let serving = home.serve();

    assert_failed(&home.run(&SERVE), 7, "in use by another process (pid ");

    assert_eq!(home.run(&["status"]).code, 0, "the first one is not disturbed");
    assert_eq!(serving.stop().0, 0);
}

#[test]
fn a_port_that_is_taken_is_told() {
    let home = Home::founded([]);
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    assert_failed(&home.run(&["serve", "--listen", &address]), 6, &address);
}

#[test]
fn a_directory_that_cannot_be_written_is_told() {
    let home = Home::founded([]);
    // A file where the state should be: refused to everyone, to root as well.
    fs::write(home.path("state"), "").unwrap();

    assert_failed(&home.run(&SERVE), 6, "state");

    if nix::unistd::geteuid().is_root() {
        return;
    }
    fs::remove_file(home.path("state")).unwrap();
    fs::set_permissions(home.0.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let said = home.run(&SERVE);
    fs::set_permissions(home.0.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_failed(&said, 6, "state");
}

#[test]
fn a_damaged_store_is_told_and_left_as_it_is() {
    let home = Home::founded([]);
    assert_eq!(home.serve().stop().0, 0);
    let state = home.path("state");
    let database = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("db"))
        .find(|path| path.is_file())
        .unwrap();
    fs::write(&database, "").unwrap();

    let said = home.run(&SERVE);

    assert_failed(&said, 8, "damaged");
    assert!(said.err.contains("backup"), "{}", said.err);
    assert_eq!(fs::read(&database).unwrap(), b"");
}

#[test]
fn a_log_that_no_coordinator_could_have_written_is_damage_and_not_a_crash() {
    let home = Home::founded([]);
    assert_eq!(home.serve().stop().0, 0);
    {
        let store = Arc::new(Store::open(&home.path("state")).unwrap());
        let mut log = EventLog::open(store.clone(), |_| Ok(())).unwrap();
        let impossible = EventBody::Started { server: "srv-1".parse().unwrap(), lease: LeaseId(7) };
        let block = log.append(vec![impossible], WallTime(0)).unwrap().unwrap();
        store.commit(&block.into_writes()).unwrap();
    }

    let said = home.run(&SERVE);

    assert_failed(&said, 8, "no coordinator could have written it");
    assert!(said.err.contains("damaged at record "), "{}", said.err);
}

#[test]
fn what_a_start_needs_and_does_not_find_is_told() {
    assert_failed(&Home::empty().run(&SERVE), 4, "trust init");

    let home = Home::founded([]);
    fs::remove_file(home.path("enrolments/earth-1.toml")).unwrap();
    assert_failed(&home.run(&SERVE), 4, "is not enrolled");

    let home = Home::founded([]);
    fs::write(home.path("coordinator.toml"), "lissten = []\n").unwrap();
    let said = home.run(&SERVE);
    assert_failed(&said, 3, "lissten");
    assert!(said.err.contains("coordinator.toml"), "{}", said.err);
}

#[test]
fn every_listing_is_one_json_value_and_readable_without() {
    let home = Home::founded([1]);
    lunar_host::documents::save(&home.path("documents/plan-web-2-1.toml"), &support::wide_plan()).unwrap();
    let serving = home.serve();
    let listings: [&[&str]; 9] = [
        &["status", "--servers"],
        &["why", "srv-1"],
        &["history", "srv-1"],
        &["lease", "list"],
        &["audit", "verify"],
        &["trust", "show"],
        &["enroll", "list"],
        &["plan", "show"],
        &["artifact", "list"],
    ];
    for listing in listings {
        let said = home.run(&[listing, &["--output", "json"]].concat());
        assert_eq!(said.code, 0, "{listing:?}: {}", said.err);
        said.json();
        let human = home.run(listing);
        assert_eq!(human.code, 0, "{listing:?}: {}", human.err);
        assert!(!human.out.trim().is_empty(), "{listing:?} says nothing");
    }
    for line in home.run(&["audit", "export"]).out.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }

    let unknown = home.run(&["why", "srv-9"]);
    assert_failed(&unknown, 3, "srv-9 is not enrolled here");
    let (code, said) = serving.stop();
    assert_eq!(code, 0);
    let loud: Vec<_> = said.iter().filter(|line| line.contains("\"ERROR\"")).collect();
    assert!(loud.is_empty(), "{loud:?}");
}

#[test]
fn an_enrolment_that_is_put_into_the_folder_while_it_runs_is_found() {
    let home = Home::founded([]);
    let serving = home.serve();

    let path = home.path("enrolments/srv-1.toml");
    lunar_host::documents::save(&path, &machine_enrolment(1)).unwrap();
    serving.until("a document is taken in");

    assert_eq!(home.run(&["why", "srv-1"]).code, 0);
    assert_eq!(serving.stop().0, 0);
}

#[test]
fn completions_and_manual_pages_are_made() {
    let home = Home::empty();
    for shell in ["bash", "zsh", "fish"] {
        let said = home.run(&["completions", shell]);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.out.contains("lunar-coordinator"), "{shell}");
    }
    let pages = home.path("man/x").parent().unwrap().join("pages");
    let said = home.run(&["manual", pages.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{}", said.err);
    for page in ["lunar-coordinator.1", "lunar-coordinator-serve.1", "lunar-coordinator-lease-reap.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let home = Home::empty();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let said = home.run(&arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        let commands = commands_in(&said.out);
        if commands.is_empty() {
            seen += 1;
            assert!(said.out.contains("lunar-coordinator ") && said.out.contains("Example"), "{arguments:?}");
        }
        open.extend(commands.into_iter().map(|name| [path.clone(), vec![name]].concat()));
    }
    assert!(seen > 20, "only {seen} commands were found");
}

/// The names below `Commands:` in a help text.
fn commands_in(help: &str) -> Vec<String> {
    let below = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    below
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn assert_failed(said: &Said, code: i32, words: &str) {
    assert_eq!(said.code, code, "{}", said.err);
    assert!(said.err.contains(words), "{words:?} is not in {}", said.err);
    assert!(said.err.contains("error: "), "{}", said.err);
}
