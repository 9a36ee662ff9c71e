//! Members that leave and come back: the same machine, or another in its place.
//!
//! Owns what becomes of them in a running fleet. Main invariant: a machine that is out is spoken to by nobody, and one
//! that is in again takes its part as if it had never left; what the machine before it did is not held against it.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::fs;

use lunar_tests::{Fleet, Part, wait_until};

#[test]
fn a_revoked_server_that_is_reinstated_is_let_in_again_and_upgrades() {
    let fleet = Fleet::found(2);
    let back = &fleet.servers()[1];
    revoke(&fleet, &[back]);

    revoke(&fleet, &["--reinstate", back]);
    fleet.wait_until_all_heard();
    fleet.publish();

    let events = fleet.wait_until_over(fleet.servers());
    assert_eq!(events.of_kind("ServerRevoked").count(), 1);
    for server in fleet.servers() {
        assert_eq!(events.outcomes(server), ["completed"], "{server}");
    }
    fleet.check_audit();
}

#[test]
fn another_machine_takes_the_place_of_a_revoked_one_and_the_old_key_stays_out() {
    let fleet = Fleet::found(2);
    let server = &fleet.servers()[1];
    let parts = [Part::Agent(server.clone()), Part::Applier(server.clone())];
    revoke(&fleet, &[server]);
    let old_key = fs::read_to_string(fleet.of(server, "etc/key.pub")).unwrap();

    // A machine fresh from the box: its own key, and no state.
    let crashed = parts.clone().map(|part| fleet.crash(&part));
    for state in ["state", "applier", "packs"] {
        fs::remove_dir_all(fleet.of(server, state)).unwrap();
    }
    for key in ["etc/key", "etc/key.pub"] {
        fs::remove_file(fleet.of(server, key)).unwrap();
    }
    let made = fleet.on(server, &["init"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let new_key = fleet.of(server, "etc/key.pub");
    assert_ne!(fs::read_to_string(&new_key).unwrap(), old_key);
    enrol_again(&fleet, server, &new_key.display().to_string());
    for (part, crashed) in parts.iter().zip(&crashed) {
        fleet.restart(part, crashed);
    }
    fleet.wait_until_all_heard();
    fleet.publish();

    let events = fleet.wait_until_over(fleet.servers());
    for server in fleet.servers() {
        assert_eq!(events.outcomes(server), ["completed"], "{server}");
    }
    let listed = fleet.ask(&["status", "--servers"]);
    let of_it =
        listed["servers"].as_array().unwrap().iter().find(|one| one["member"]["server"] == **server).unwrap();
    assert_eq!(of_it["revoked"], false, "{of_it}");
    fleet.check_audit();
}

/// Changes the revocation list, and waits until the coordinator says so.
fn revoke(fleet: &Fleet, who: &[&str]) {
    let dave = fleet.key("dave");
    let done = fleet.operator(&[&["enroll", "revoke"], who, &["--key", &dave]].concat());
    assert_eq!(done.code, 0, "{}", done.err);
    let server = who[who.len() - 1];
    let out = who[0] != "--reinstate";
    wait_until("the coordinator to know who is out", || {
        let listed = fleet.ask(&["status", "--servers"]);
        let mut servers = listed["servers"].as_array().unwrap().iter();
        servers.any(|one| one["member"]["server"] == *server && one["revoked"] == out)
    });
}

/// Enrols a machine of this key in a server's place, and hands it its papers.
fn enrol_again(fleet: &Fleet, server: &str, key: &str) {
    let enrolment = fleet.home().join(format!("enrolments/{server}.toml"));
    let before: toml::Table = fs::read_to_string(&enrolment).unwrap().parse().unwrap();
    let of = |name: &str| before[name].as_str().unwrap().to_owned();
    let port = format!("port={}", before["labels"]["port"].as_str().unwrap());
    let tier = before["tier"].as_integer().unwrap().to_string();
    let (site, cluster, service, dave) = (of("site"), of("cluster"), of("service"), fleet.key("dave"));
    let mut words =
        vec!["enroll", "new", server, "--machine-key", key, "--site", &site, "--cluster", &cluster];
    words.extend(["--tier", &tier, "--service", &service, "--label", &port, "--key", &dave]);
    let group = before.get("group").map(|group| group.as_str().unwrap().to_owned());
    if let Some(group) = &group {
        words.extend(["--group", group]);
    }
    let enrolled = fleet.operator(&words);
    assert_eq!(enrolled.code, 0, "{}", enrolled.err);
    let etc = fleet.of(server, "etc");
    for entry in fs::read_dir(&etc).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("enrolment.toml") {
            fs::remove_file(path).unwrap();
        }
    }
    for entry in fs::read_dir(enrolment.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(rest) = name.strip_prefix(&format!("{server}.toml")) {
            fs::copy(&path, etc.join(format!("enrolment.toml{rest}"))).unwrap();
        }
    }
}
