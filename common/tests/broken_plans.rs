//! A plan, broken in every way that people break plans, and what they are told.
//!
//! Owns the golden messages. Each case is one edit of a plan that is right; the message must name the place.

mod support;

use lunar_common::document::Document;
use lunar_common::plan::Plan;
use support::{each_is_told, told};

const RIGHT: &str = r#"format = 1
fleet = "moon"
campaign = "web-2"
generation = 1
author = "ann"
issued = "2026-11-21T08:00:00Z"
expires = "2026-11-28T08:00:00Z"

[select]
tiers = [2, 3]
servers = ["srv-1", "srv-2"]

[[artifact]]
name = "web"
version = "2"
id = "2222222222222222222222222222222222222222222222222222222222222222"
manifest_bytes = 1000
bytes = 100000

[[artifact.from]]
version = "1"
id = "1111111111111111111111111111111111111111111111111111111111111111"

[install]
kind = "release"
restart = { command = { command = ["/bin/restart", "${server}"] } }
drain = { command = ["/bin/drain", "${label.rack}"], timeout_s = 10 }
keep = 3

[limits]
fleet = 50
site = { default = 5, only = { base = 2 } }

[lease]
commit_within_s = 300

[health]
soak_s = 60
interval_s = 5

[[health.probe]]
name = "up"
kind = "http"
url = "http://${hostname}:8080/health"
contains = "ok"

[[health.probe]]
name = "port"
kind = "tcp"
address = "127.0.0.1:8080"
when = ["after", "soak"]

[[health.probe]]
name = "disk"
kind = "disk"
path = "${root}"
free_bytes_min = 1000
timeout_s = 5
"#;

/// What is replaced, by what, and what a person is told.
const BROKEN: &[(&str, &str, &str)] = &[
    // Keys.
    ("campaign =", "campain =", "line 3, column 1: unknown key `campain`; did you mean `campaign`?"),
    ("[limits]", "[limit]", "line 30, column 2: unknown key `limit`; did you mean `limits`?"),
    ("soak_s =", "soak =", "unknown key `soak`; did you mean `soak_s`?"),
    ("contains =", "containz =", "line 45, column 1: unknown key `containz`; did you mean `contains`?"),
    ("keep = 3", "kep = 3", "line 28, column 1: unknown key `kep`; did you mean `keep`?"),
    ("fleet = 50", "fleat = 50", "line 31, column 1: unknown key `fleat`; did you mean `fleet`?"),
    ("author = \"ann\"\n", "", "missing key `author`"),
    ("url = \"http://${hostname}:8080/health\"\n", "", "missing key `url`: a probe of kind http needs it"),
    ("address = ", "url = \"http://a/\"\naddress = ", "key `url` does not belong to a probe of kind tcp"),
    ("format = 1\n", "format = 1\nformat = 1\n", "line 2, column 1: duplicate key"),
    // Types and values that TOML itself tells.
    (
        "generation = 1",
        "generation = \"one\"",
        "line 4, column 14: invalid type: string \"one\", expected u64",
    ),
    ("generation = 1", "generation = -1", "line 4, column 14: invalid value: integer `-1`"),
    ("fleet = 50", "fleet = 0", "line 31, column 9: invalid value: integer `0`, expected a nonzero u32"),
    ("only = { base = 2 }", "only = { base = 0 }", "expected a nonzero u32"),
    ("tiers = [2, 3]", "tiers = [4]", "tier 4 does not exist: use 1, 2 or 3"),
    ("kind = \"http\"", "kind = \"htp\"", "unknown value `htp`; did you mean `http`?"),
    ("kind = \"release\"", "kind = \"image\"", "unknown value `image`"),
    ("\"srv-1\"", "\"../srv\"", "character '.' is not allowed"),
    ("2026-11-28T08:00:00Z", "next week", "line 7, column 11: expected a time such as"),
    (
        "\"2026-11-28T08:00:00Z\"",
        "2026-11-28T08:00:00Z",
        "line 7, column 11: invalid type: map, expected a time in quotes",
    ),
    ("id = \"2222", "id = \"zzzz", "expected 64 hexadecimal digits"),
    ("[health]\n", "[health\n", "line 37, column 8"),
    ("timeout_s = 5\n", "timeout_s = \n", "line 58, column 13"),
    // Impossible contents.
    ("format = 1", "format = 2", "format: 2 is not known to this program"),
    ("generation = 1", "generation = 0", "generation: counts from 1"),
    ("2026-11-28T08:00:00Z", "2026-11-20T08:00:00Z", "expires: 2026-11-20T08:00:00Z is not after issued"),
    ("servers = [", "except = [\"srv-2\"]\nservers = [", "select.except: srv-2 is in select.servers too"),
    ("manifest_bytes = 1000", "manifest_bytes = 0", "artifact[0].manifest_bytes: 0 is out of range"),
    ("bytes = 100000\n", "bytes = 100000000000000\n", "artifact[0].bytes: 100000000000000 is more than"),
    (
        "id = \"1111111111111111111111111111111111111111111111111111111111111111\"",
        "id = \"2222222222222222222222222222222222222222222222222222222222222222\"",
        "artifact[0].from[0].id: is the artifact itself",
    ),
    ("keep = 3", "keep = 1", "install.keep: 1 leaves nothing to roll back to"),
    ("keep = 3", "keep = 1000", "install.keep: 1000 versions would fill the disk"),
    ("[\"/bin/restart\", \"${server}\"]", "[]", "install.restart.command.command: is empty"),
    ("[\"/bin/restart\", \"${server}\"]", "[\" \"]", "install.restart.command.command: names no program"),
    ("${label.rack}", "${label.a b}", "placeholder ${label.a b} is not known"),
    ("${label.rack}", "${hots}", "install.drain.command[1]: placeholder ${hots} is not known"),
    ("${label.rack}", "${server", "a placeholder `${` is not closed"),
    ("timeout_s = 10", "timeout_s = 0", "install.drain.timeout_s: 0 s is out of range"),
    (
        "timeout_s = 10",
        "timeout_s = 120",
        "120 s leaves no time to begin in: draining alone may take 120 s of it",
    ),
    ("commit_within_s = 300", "commit_within_s = 1800", "is not below down_s_max (1800 s)"),
    (
        "commit_within_s = 300",
        "commit_within_s = 120",
        "120 s would always roll back: restart (60 s), settle (30 s) and soak (60 s)",
    ),
    ("commit_within_s = 300", "down_s_max = 4000000000", "lease.down_s_max: 4000000000 s is out of range"),
    ("soak_s = 60", "soak_s = 0", "health.soak_s: 0 s is out of range"),
    ("interval_s = 5", "interval_s = 61", "health.interval_s: 61 s is longer than soak_s (60 s)"),
    ("interval_s = 5", "interval_s = 5\nfailures_allowed = 12", "12 of 12 rounds may fail"),
    ("name = \"port\"", "name = \"up\"", "health.probe[1].name: up is used twice"),
    ("when = [\"after\", \"soak\"]", "when = []", "health.probe[1].when: is empty"),
    (
        "when = [\"after\", \"soak\"]",
        "when = [\"after\", \"after\"]",
        "health.probe[1].when: lists a time twice",
    ),
    (
        "http://${hostname}:8080",
        "https://${hostname}:8080",
        "health.probe[0].url: \"https://${hostname}:8080/health\" is not http://",
    ),
    ("http://${hostname}:8080/health", "", "health.probe[0].url: must not be empty"),
    ("http://${hostname}:8080/health", "http://a b/", "health.probe[0].url: holds white space"),
    ("http://${hostname}:8080/health", "http://u:p@h/", "holds a user name or password"),
    ("http://${hostname}:8080/health", "http:///x", "names no host"),
    ("http://${hostname}:8080/health", "http://h:99999/", "\"99999\" is no port"),
    ("contains = \"ok\"", "status = 99", "health.probe[0].status: 99 is no HTTP status"),
    ("contains = \"ok\"", "contains = \"\"", "health.probe[0].contains: must not be empty"),
    ("127.0.0.1:8080", "127.0.0.1", "health.probe[1].address: \"127.0.0.1\" names no port"),
    ("path = \"${root}\"", "path = \"data\"", "health.probe[2].path: \"data\" is not absolute"),
    ("free_bytes_min = 1000", "free_bytes_min = 0", "health.probe[2].free_bytes_min: 0 is always there"),
    ("timeout_s = 5\n", "timeout_s = 0\n", "health.probe[2].timeout_s: 0 s is out of range: write 1 to 3600"),
    (
        "timeout_s = 5\n",
        "timeout_s = 5\n[retry]\nattempts_max = 0\n",
        "retry.attempts_max: 0 is out of range",
    ),
    (
        "timeout_s = 5\n",
        "timeout_s = 5\n[retry]\nbase_s = 60\ncap_s = 30\n",
        "retry.cap_s: 30 s is below base_s (60 s)",
    ),
    (
        "timeout_s = 5\n",
        "timeout_s = 5\n[spread]\nwindow_s = 4000000000\n",
        "spread.window_s: 4000000000 s is out of range",
    ),
    ("format = 1\n", "format = 1\ndescription = \"\\u001b[31m\"\n", "description: holds control characters"),
];

#[test]
fn the_labels_that_a_plan_uses_are_those_of_its_programs_and_probes() {
    let plan = RIGHT.replace("127.0.0.1:8080", "${label.host}:${label.port}");
    let plan = Plan::parse(plan.as_bytes()).unwrap();
    assert_eq!(plan.labels_used().into_iter().collect::<Vec<_>>(), ["host", "port", "rack"]);
}

#[test]
fn the_plan_that_is_broken_below_is_right() {
    assert_eq!(told(RIGHT), "");
}

#[test]
fn each_mistake_is_told_with_its_place() {
    each_is_told(RIGHT, BROKEN, told);
}

#[test]
fn many_mistakes_are_told_at_once() {
    let broken =
        RIGHT.replace("keep = 3", "keep = 1").replace("soak_s = 60", "soak_s = 0").replace("8080/", "0/");
    let said = told(&broken);
    for wanted in ["install.keep", "health.soak_s", "health.probe[0].url"] {
        assert!(said.contains(wanted), "{wanted} is not in {said}");
    }
}

#[test]
fn a_plan_without_probes_before_or_after_is_refused() {
    let first = RIGHT.find("[[health.probe]]").unwrap();
    let probes =
        "[[health.probe]]\nname = \"x\"\nkind = \"memory\"\navailable_bytes_min = 1\nwhen = [\"soak\"]\n";
    let said = told(&format!("{}{probes}", &RIGHT[..first]));
    assert!(said.contains("none is asked before") && said.contains("none is asked after"), "{said}");
    let said = told(&RIGHT[..first]);
    assert!(said.contains("missing key `probe`"), "{said}");
}

#[test]
fn too_many_of_anything_is_refused() {
    let probe =
        |n: usize| format!("[[health.probe]]\nname = \"p{n}\"\nkind = \"load\"\nper_core_percent_max = 90\n");
    let said = told(&format!("{RIGHT}{}", (0..65).map(probe).collect::<String>()));
    assert!(said.contains("health.probe: has 68 entries; at most 64"), "{said}");
    let from = |n: usize| format!("\n[[artifact.from]]\nversion = \"{n}\"\nid = \"{n:064}\"\n");
    let many: String = (0..65).map(from).collect();
    let said = told(&RIGHT.replace("\n[install]", &format!("{many}\n[install]")));
    assert!(said.contains("artifact[0].from: has 66 entries; at most 64"), "{said}");
    let arguments = vec!["\"x\""; 129].join(", ");
    let said = told(&RIGHT.replace("[\"/bin/restart\", \"${server}\"]", &format!("[{arguments}]")));
    assert!(said.contains("install.restart.command.command: has 129 entries; at most 128"), "{said}");
}

#[test]
fn a_plan_that_is_cut_off_anywhere_is_refused_or_still_right_and_never_a_crash() {
    for end in 0..RIGHT.len() {
        let _ = told(&RIGHT[..end]);
    }
    assert_ne!(told(&RIGHT[..RIGHT.len() / 2]), "");
}

#[test]
fn what_was_read_is_written_and_read_the_same() {
    let plan = Plan::parse(RIGHT.as_bytes()).unwrap();
    let text = toml::to_string(&plan).unwrap();
    assert_eq!(Plan::parse(text.as_bytes()).unwrap(), plan);
}
