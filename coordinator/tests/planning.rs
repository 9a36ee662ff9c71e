//! `plan check` as an operator uses it before a campaign: does it fit, and if not, what would?
//!
//! Owns the command's answers word for word, its exit codes and its JSON. The plan and the start are fixed, so
//! that the answer is the same on every day.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;

use lunar_common::document::Kind;
use support::{Home, Said, signed, wide_plan};

/// A file that everyone may open and nobody can read.
const UNREADABLE: &str = "/proc/self/mem";

/// 10,000 servers as required, on five sites, tier 1 in redundancy groups of 4.
fn moon() -> String {
    let mut text = "format = 1\nfleet = \"moon\"\n".to_owned();
    for site in 1..=5 {
        for (tier, servers, more) in [(1, 1000, "group_size = 4\n"), (2, 500, ""), (3, 500, "")] {
            text += &format!(
                "\n[[servers]]\nname = \"s{site}-t{tier}\"\ncount = {servers}\ntier = {tier}\nsite = \"s{site}\"\n{more}"
            );
        }
    }
    text
}

/// A plan of one week with the limits as required.
fn week() -> String {
    let wide = String::from_utf8(wide_plan().body).unwrap();
    let from = wide.find("[limits]").unwrap();
    let to = wide.find("[[artifact]]").unwrap();
    format!("{}{}", &wide[..from], &wide[to..]).replace("2099-01-01", "2026-11-28")
}

fn desk(plan: &str, inventory: &str) -> Home {
    let home = Home::empty();
    fs::write(home.path("plan.toml"), plan).unwrap();
    fs::write(home.path("moon.toml"), inventory).unwrap();
    home
}

fn check(home: &Home, more: &[&str]) -> Said {
    let (plan, inventory) = (home.path("plan.toml"), home.path("moon.toml"));
    let mut arguments =
        vec!["plan", "check", plan.to_str().unwrap(), "--inventory", inventory.to_str().unwrap()];
    arguments.extend(["--start", "2026-11-21T00:00:00Z"]);
    arguments.extend(more);
    home.run(&arguments)
}

#[test]
fn a_campaign_that_cannot_fit_is_refused_without_a_coordinator_and_told_what_would() {
    let home = desk(&week(), &moon());
    let said = check(&home, &["--hold", "20m", "--rollback", "10m"]);
    assert_eq!(said.code, 1, "{}", said.err);
    let (answer, signing) = said.out.split_once("\n\n/").unwrap();
    let wanted = "\
INFEASIBLE: 10000 servers cannot all be done in 7 days.
  from 2026-11-21T00:00:00Z to 2026-11-28T00:00:00Z
  assumed: 20 min down each, 5 s between two in a slot, 10 min for a rollback, 0.5 % fail once and are tried again
  fleet: 10000 servers, limit 250: needs 3372.3 slot-hours, has 42000; takes 13.6 h
  tier 1: 5000 servers, limit 5: needs 1686.2 slot-hours, has 840; 2490 done in time, all after 14.1 days
  tier 2: 2500 servers, limit 100: needs 843.1 slot-hours, has 16800; takes 8.6 h
  tier 3: 2500 servers, limit 150: needs 843.1 slot-hours, has 25200; takes 5.9 h

tier 1 (limits.tier.1) does not fit:
  tier 1: 5000 servers, limit 5: needs 1686.2 slot-hours, has 840; 2490 done in time, all after 14.1 days
  any one of these makes it fit:
  - at most 9 min 53 s down each
  - limits.tier.1 = 11
  - expires = \"2026-12-05T01:13:45Z\" (14.1 days from the start)
  - 2490 of these servers in this campaign: narrow `select`
  risk: at 0.5 % expect 50 to fail; each that stops its tier until a person has looked adds that time (--triage)
  note: limits.tier adds up to 255 (5 + 100 + 150), above limits.fleet = 250: the tiers wait for each other when all are full";
    assert_eq!(answer, wanted, "\n{}", said.out);
    assert!(signing.contains("no trust root is here, so signatures were not checked"), "{signing}");
}

#[test]
fn the_same_campaign_fits_with_each_remedy_that_was_named() {
    let slower = ["--hold", "20m", "--rollback", "10m"];
    let home = desk(&week(), &moon());
    assert_eq!(check(&home, &["--hold", "593s", "--rollback", "10m"]).code, 0);
    assert_eq!(check(&home, &["--hold", "594s", "--rollback", "10m"]).code, 1);
    let eleven = week().replace("[[artifact]]\n", "[limits]\ntier = { 1 = 11 }\n[[artifact]]\n");
    let fits = check(&desk(&eleven, &moon()), &slower);
    assert_eq!(fits.code, 0, "{}", fits.out);
    assert!(fits.out.starts_with("FEASIBLE: 10000 servers, at best all done after 6.4 days"), "{}", fits.out);
    let later = week().replace("2026-11-28T00:00:00Z", "2026-12-05T01:13:45Z");
    assert_eq!(check(&desk(&later, &moon()), &slower).code, 0);
}

#[test]
fn the_answer_for_machines_has_the_same_figures() {
    let home = desk(&week(), &moon());
    let said = check(&home, &["--hold", "20m", "--rollback", "10m", "--output", "json"]);
    assert_eq!(said.code, 1);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((answer["feasible"].as_bool(), answer["ready"].as_bool()), (Some(false), Some(false)));
    let short = &answer["assessment"]["short"][0];
    assert_eq!(short["share"]["scope"]["tier"], 1);
    assert_eq!(
        (short["limit_that_fits"].as_u64(), short["hold_that_fits_s"].as_u64()),
        (Some(11), Some(593))
    );
    assert_eq!(
        (short["share"]["done"].as_u64(), short["share"]["fits"].as_bool()),
        (Some(2490), Some(false))
    );
}

#[test]
fn a_wrong_inventory_or_option_is_refused_with_its_place_and_what_is_meant() {
    let wrong = desk(&week(), &moon().replace("group_size", "gruop_size"));
    let said = check(&wrong, &[]);
    assert_eq!(said.code, 3);
    let words = "moon.toml: the inventory is wrong at line 9, column 1: unknown key `gruop_size`; did you mean `group_size`?";
    assert!(said.err.contains(words) && said.err.contains("next: "), "{}", said.err);

    let home = desk(&week(), &moon());
    fs::remove_file(home.path("moon.toml")).unwrap();
    let missing = check(&home, &[]);
    assert_eq!(missing.code, 3, "{}", missing.err);
    assert!(missing.err.contains("moon.toml") && missing.err.contains("next: "), "{}", missing.err);

    let unreadable =
        home.run(&["plan", "check", home.path("plan.toml").to_str().unwrap(), "--inventory", UNREADABLE]);
    assert_eq!(unreadable.code, 6, "{}", unreadable.err);
    assert!(unreadable.err.contains(UNREADABLE), "{}", unreadable.err);

    let other = desk(&week(), &moon().replace("\"moon\"", "\"mars\""));
    assert!(check(&other, &["--hold", "5m"]).out.contains("the inventory is of fleet mars"));
    assert_eq!(check(&other, &["--failures", "many"]).code, 2);
    let long = check(&other, &["--hold", "2h"]);
    assert_eq!(long.code, 1);
    assert!(
        long.out.contains("INFEASIBLE: lease.down_s_max: 1800 s is less than the 7200 s"),
        "{}",
        long.out
    );
}

#[test]
fn without_an_inventory_the_enrolments_here_are_counted_and_only_the_servers_among_them() {
    let home = Home::founded([7, 8]);
    let wide = wide_plan();
    let path = home.path("plans/web-2-1.toml");
    lunar_host::documents::save(&path, &wide).unwrap();
    let said = home.run(&["plan", "check", "web-2"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.starts_with("FEASIBLE: 2 servers"), "the coordinator is none: {}", said.out);
    assert!(said.out.contains("next: lunar-coordinator plan publish"), "{}", said.out);
}

#[test]
fn a_plan_that_cannot_be_fulfilled_is_not_published_in_the_words_of_the_check_unless_a_person_knows_better() {
    let home = Home::founded([7, 8]);
    let nobody =
        String::from_utf8(wide_plan().body).unwrap().replace("[select]\n", "[select]\ntiers = [1]\n");
    let path = home.path("plans/web-2-1.toml");
    lunar_host::documents::save(&path, &signed(Kind::Plan, nobody, 1)).unwrap();
    let checked = home.run(&["plan", "check", "web-2"]);
    assert_eq!(checked.code, 1, "{}{}", checked.out, checked.err);
    let verdict = checked.out.lines().find(|line| line.starts_with("INFEASIBLE: ")).unwrap();

    let refused = home.run(&["plan", "publish", "web-2"]);

    assert_eq!(refused.code, 1, "{}{}", refused.out, refused.err);
    for words in ["web-2-1.toml is not published", verdict, "next: ", "--even-if-infeasible"] {
        assert!(refused.err.contains(words), "{words:?} is not in {}", refused.err);
    }
    let dry = home.run(&["plan", "publish", "web-2", "--even-if-infeasible", "--dry-run"]);
    assert_eq!(dry.code, 0, "{}", dry.err);
    assert!(
        dry.out.contains("warning: goes on by --even-if-infeasible") && dry.out.contains(verdict),
        "{}",
        dry.out
    );
    // It gets as far as handing the plan over, and nobody is there.
    assert_eq!(home.run(&["plan", "publish", "web-2", "--even-if-infeasible"]).code, 5);
}

#[test]
fn publishing_judges_by_the_same_options_as_the_check_and_passes_its_warnings_on() {
    let home = Home::founded([7, 8]);
    lunar_host::documents::save(&home.path("plans/web-2-1.toml"), &wide_plan()).unwrap();
    let publish = |more: &[&str]| home.run(&[&["plan", "publish", "web-2", "--dry-run"], more].concat());

    let fits = publish(&[]);
    assert_eq!(fits.code, 0, "{}", fits.err);
    assert!(fits.out.contains("warning: web 2 is not among the artifacts here"), "{}", fits.out);
    let slow = publish(&["--hold", "2h"]);
    assert_eq!(slow.code, 1, "{}", slow.out);
    assert!(
        slow.err.contains("INFEASIBLE: lease.down_s_max: 1800 s is less than the 7200 s"),
        "{}",
        slow.err
    );
}

#[test]
fn a_label_that_no_server_has_is_told_before_servers_fail_by_it() {
    let home = Home::founded([7, 8]);
    let plan = String::from_utf8(wide_plan().body).unwrap().replace(":8080", ":${label.prot}");
    fs::write(home.path("plans/web-2-1.toml"), plan).unwrap();
    let said = home.run(&["plan", "check", "web-2"]);
    let warning =
        "warning: ${label.prot} is used, and 2 of 2 servers selected have no such label (srv-7, srv-8)";
    assert!(said.out.contains(warning), "{}{}", said.out, said.err);
}

#[test]
fn an_author_who_is_no_key_of_the_trust_root_is_told_before_anyone_signs() {
    let home = Home::founded([7]);
    let plan = String::from_utf8(wide_plan().body).unwrap().replace("\"ann\"", "\"zoe\"");
    let path = home.path("plans/web-2-1.toml");
    fs::write(&path, &plan).unwrap();
    let unsigned = home.run(&["plan", "check", "web-2"]);
    assert_eq!(unsigned.code, 1, "{}", unsigned.err);
    let warning = "warning: author zoe is no key of the trust root: it would be refused";
    assert!(unsigned.out.contains(warning), "{}", unsigned.out);

    lunar_host::documents::save(&path, &signed(Kind::Plan, plan, 1)).unwrap();
    let signed = home.run(&["plan", "check", "web-2"]);
    assert_eq!(signed.code, 4, "and it is: {}", signed.out);
    assert!(signed.err.contains("zoe"), "{}", signed.err);
}

#[test]
fn a_campaign_that_fits_is_run_and_its_end_stands_beside_the_arithmetic() {
    let few =
        "format = 1\nfleet = \"moon\"\n\n[[servers]]\nname = \"air\"\ncount = 8\ntier = 1\nsite = \"s1\"\n";
    let home = desk(&week(), few);
    let said = check(&home, &["--simulate", "--seeds", "2", "--failures", "0"]);
    for part in [
        "simulated: 2 of 2 runs ended",
        "by arithmetic ",
        "tier 1: servers are down from ",
        "tier 1: 5 of 5 down at once",
    ] {
        assert!(said.out.contains(part), "{part:?} is not in {}{}", said.out, said.err);
    }
    let said = check(&home, &["--simulate", "--seeds", "2", "--failures", "0", "--output", "json"]);
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(value["forecast"]["seeds"], 2);
    assert!(value["forecast"]["median_s"].as_u64() <= value["forecast"]["p95_s"].as_u64());
    let said = check(&desk(&week(), &moon()), &["--simulate", "--hold", "20m"]);
    assert!(said.out.contains("warning: not simulated: it cannot fit"), "{}", said.out);
}

#[test]
fn the_windows_of_a_plan_are_told_in_hours_and_one_that_cannot_be_is_refused_with_its_place() {
    let windows = "\n[windows]\nzone = \"UTC\"\n[[windows.weekly]]\nname = \"night\"\nfrom = \"22:00\"\nuntil = \"05:00\"\n\
                   [windows.tier]\n1 = { mode = \"strict\", windows = [\"night\"] }\n";
    let plan = format!("{}{windows}", week());
    let said = check(&desk(&plan, &moon()), &["--hours-per-day", "12"]);
    for part in [
        "windows of tier 1 (strict: night): open 49 h a week, for starts ",
        "first start 2026-11-21T00:00:00Z",
        "warning: --hours-per-day counts for tiers without windows only",
    ] {
        assert!(said.out.contains(part), "{part:?} is not in {}{}", said.out, said.err);
    }
    let said = check(&desk(&plan, &moon()), &["--output", "json"]);
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let held = &value["assessment"]["windows"][0];
    assert_eq!((held["tier"].as_u64(), held["open_s_a_week"].as_u64()), (Some(1), Some(49 * 3600)));
    assert_eq!((held["mode"].as_str(), held["windows"][0].as_str()), (Some("strict"), Some("night")));

    let nowhere = check(&desk(&plan.replace("UTC", "Europe/Berlni"), &moon()), &[]);
    assert_eq!(nowhere.code, 3);
    assert!(
        nowhere.err.contains("did you mean \"Europe/Berlin\"?") && nowhere.err.contains("line "),
        "{}",
        nowhere.err
    );
    let short = check(&desk(&plan.replace("05:00", "22:05"), &moon()), &[]);
    assert_eq!(short.code, 3);
    assert!(short.err.contains("night is open for 300 s at a time; a start needs "), "{}", short.err);
}
