//! Maintenance windows, broken in every way that people break them, and what they are told.
//!
//! Owns the golden messages. Each case is one edit of windows that are right; the message must name the place.

mod support;

use lunar_common::document::Document;
use lunar_common::limits::Tier;
use lunar_common::plan::Plan;
use lunar_common::plan::windows::{Mode, Windows};
use lunar_common::wire;

const HEAD: &str = r#"format = 1
fleet = "moon"
campaign = "web-2"
generation = 1
author = "ann"
issued = "2026-11-21T08:00:00Z"
expires = "2026-11-28T08:00:00Z"

[[artifact]]
name = "web"
version = "2"
id = "2222222222222222222222222222222222222222222222222222222222222222"
manifest_bytes = 1000
bytes = 100000

[install]
kind = "release"
restart = { unit = "web.service" }

[health]

[[health.probe]]
name = "disk"
kind = "disk"
path = "${root}"
free_bytes_min = 1000

"#;

const WINDOWS: &str = r#"[windows]
zone = "Europe/Berlin"

[[windows.weekly]]
name = "night"
days = ["mon", "tue", "wed", "thu"]
from = "22:00"
until = "05:00"

[[windows.weekly]]
name = "noon"
from = "12:00"
until = "13:00"

[[windows.cron]]
name = "sunday"
opens = "0 2 * * sun#4"
open_s = 14400

[windows.tier]
1 = { mode = "strict", windows = ["night", "sunday"] }
2 = { mode = "preferred", windows = ["night", "noon"] }
3 = { mode = "any" }
"#;

/// What is replaced, by what, and what a person is told.
const BROKEN: &[(&str, &str, &str)] = &[
    // Keys, types and values.
    ("zone =", "zoen =", "line 29, column 1: unknown key `zoen`; did you mean `zone`?"),
    ("zone = \"Europe/Berlin\"\n", "", "missing key `zone`"),
    (
        "Europe/Berlin",
        "Europe/Berlni",
        "line 29, column 8: unknown time zone \"Europe/Berlni\"; did you mean \"Europe/Berlin\"?",
    ),
    ("Europe/Berlin", "europe/berlin", "did you mean \"Europe/Berlin\"?"),
    ("Europe/Berlin", "Tranquility", "write an IANA name such as"),
    ("until = \"05:00\"\n", "", "missing key `until`"),
    ("until = \"05:00\"", "til = \"05:00\"", "line 35, column 1: unknown key `til`; did you mean `until`?"),
    ("\"05:00\"", "\"5:00\"", "line 35, column 9: \"5:00\" is no time of day: write 00:00 to 23:59"),
    ("\"05:00\"", "\"24:00\"", "\"24:00\" is no time of day"),
    ("\"05:00\"", "5", "invalid type: integer `5`"),
    ("\"tue\"", "\"tus\"", "unknown value `tus`; did you mean `tue`?"),
    ("0 2 * * sun#4", "0 25 * * *", "line 44, column 9: hour \"25\": write 0 to 23"),
    ("0 2 * * sun#4", "0 2 1 * sun", "are both given"),
    ("\"strict\"", "\"strikt\"", "unknown value `strikt`; did you mean `strict`?"),
    ("{ mode = \"any\" }", "{ windows = [] }", "missing key `mode`"),
    ("3 = {", "4 = {", "unknown key `4`"),
    // Impossible contents.
    ("[\"mon\", \"tue\", \"wed\", \"thu\"]", "[]", "windows.weekly[0].days: is empty: it would never open"),
    ("\"tue\", \"wed\"", "\"tue\", \"tue\"", "windows.weekly[0].days: lists a day twice"),
    ("name = \"noon\"", "name = \"night\"", "windows.weekly[1].name: night is used twice"),
    ("open_s = 14400", "open_s = 0", "windows.cron[0].open_s: 0 s is out of range: write 1 to 604800"),
    ("open_s = 14400", "open_s = 604801", "windows.cron[0].open_s: 604801 s is out of range"),
    (
        "until = \"13:00\"",
        "until = \"12:09\"",
        "windows.weekly[1]: noon is open for 540 s at a time; a start needs 570 s: lease.start_within_s (120 s), the \
         time down (150 s) and a rollback (300 s)",
    ),
    ("open_s = 14400", "open_s = 569", "windows.cron[0]: sunday is open for 569 s at a time"),
    (
        "0 2 * * sun#4",
        "0 2 30 2 *",
        "windows.cron[0]: sunday never opens between issued (2026-11-21T08:00:00Z) and expires (2026-11-28T08:00:00Z)",
    ),
    ("0 2 * * sun#4", "0 2 * * sun#1", "windows.cron[0]: sunday never opens between"),
    (
        "0 2 * * sun#4",
        "0 */3 * * *",
        "windows.cron[0]: sunday opens again at 2026-11-21T08:00:00Z, before it closes at 2026-11-21T09:00:00Z",
    ),
    (
        "[\"night\", \"sunday\"]",
        "[\"nigth\", \"sunday\"]",
        "windows.tier.1.windows: no window is called nigth; did you mean night?",
    ),
    ("[\"night\", \"sunday\"]", "[\"night\", \"night\"]", "windows.tier.1.windows: lists night twice"),
    ("[\"night\", \"sunday\"]", "[\"night\"]", "windows.cron[0]: sunday is used by no tier"),
    ("[\"night\", \"sunday\"]", "[]", "windows.tier.1: is strict and names no window"),
    (
        "mode = \"any\"",
        "mode = \"any\", windows = [\"noon\"]",
        "windows.tier.3.windows: are not looked at with mode = \"any\"",
    ),
    (
        "from = \"12:00\"\nuntil = \"13:00\"",
        "days = [\"tue\"]\nfrom = \"23:00\"\nuntil = \"01:00\"",
        "windows.weekly[1]: noon adds nothing to tier 2: night is open whenever it is",
    ),
    (
        "from = \"12:00\"\nuntil = \"13:00\"",
        "days = [\"thu\", \"wed\", \"tue\", \"mon\"]\nfrom = \"22:00\"\nuntil = \"05:00\"",
        "windows.weekly[1]: noon adds nothing to tier 2: night is open whenever it is",
    ),
    (
        "from = \"12:00\"\nuntil = \"13:00\"",
        "from = \"05:00\"\nuntil = \"05:00\"",
        "windows.tier.2: its windows are never closed: write mode = \"any\"",
    ),
];

fn told(windows: &str) -> String {
    support::told(&format!("{HEAD}{windows}"))
}

#[test]
fn the_windows_that_are_broken_below_are_right() {
    assert_eq!(told(WINDOWS), "");
    let plan = Plan::parse(format!("{HEAD}{WINDOWS}").as_bytes()).unwrap();
    let windows = plan.windows.unwrap();
    assert_eq!(windows.tier.of(Tier::One).mode, Mode::Strict);
    assert_eq!(windows.weekly[1].days.len(), 7, "no days are all days");
    assert_eq!(Plan::parse(HEAD.as_bytes()).unwrap().windows, None);
}

#[test]
fn each_mistake_in_windows_is_told_with_its_place() {
    support::each_is_told(WINDOWS, BROKEN, told);
}

#[test]
fn a_stage_names_windows_that_are_there_and_a_window_that_only_a_stage_uses_is_used() {
    let held = |names: &str| format!("[[stages]]\nname = \"all\"\nwindows = {names}\n");
    let only_by_stage = WINDOWS.replacen("[\"night\", \"sunday\"]", "[\"night\"]", 1);
    assert_eq!(told(&format!("{}{only_by_stage}", held("[\"sunday\"]"))), "");
    for (names, wanted) in [
        ("[\"sundya\", \"sunday\"]", "stages[0].windows: no window is called sundya; did you mean sunday?"),
        ("[\"sunday\", \"sunday\"]", "stages[0].windows: lists sunday twice"),
    ] {
        let said = told(&format!("{}{only_by_stage}", held(names)));
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let said = told(&held("[\"night\"]"));
    assert!(said.contains("stages[0].windows: are named, and the plan has none"), "{said}");
    let always = "[windows]\nzone = \"UTC\"\n[[windows.weekly]]\nname = \"day\"\nfrom = \"00:00\"\nuntil = \"00:00\"\n";
    let said = told(&format!("{}{always}", held("[\"day\"]")));
    assert!(said.contains("stages[0].windows: are never closed"), "{said}");
}

#[test]
fn a_table_without_windows_and_one_with_too_many_are_refused() {
    let said = told("[windows]\nzone = \"UTC\"\n");
    assert!(said.contains("windows: names none"), "{said}");
    let many =
        |n: usize| format!("[[windows.weekly]]\nname = \"w{n}\"\nfrom = \"12:00\"\nuntil = \"13:00\"\n");
    let said = told(&format!("[windows]\nzone = \"UTC\"\n{}", (0..33).map(many).collect::<String>()));
    assert!(said.contains("windows: has 33 windows; at most 32"), "{said}");
}

#[test]
fn windows_that_were_read_are_written_and_read_the_same_as_text_and_on_the_wire() {
    let plan = Plan::parse(format!("{HEAD}{WINDOWS}").as_bytes()).unwrap();
    let text = toml::to_string(&plan).unwrap();
    assert_eq!(Plan::parse(text.as_bytes()).unwrap(), plan);
    let windows = plan.windows.unwrap();
    let bytes = wire::encode(&windows, 4096).unwrap();
    assert_eq!(wire::decode::<Windows>(&bytes, 4096).unwrap(), windows);
}

#[test]
fn thirty_two_windows_that_open_every_hour_for_seventy_years_are_read() {
    // What costs most to check; without a bound on what is compared this would not end.
    let name = |n: usize| format!("w{n}");
    let window = |n: usize| {
        format!("[[windows.cron]]\nname = \"{}\"\nopens = \"{} * * * *\"\nopen_s = 600\n", name(n), n)
    };
    let names = (0..32).map(|n| format!("\"{}\"", name(n))).collect::<Vec<_>>().join(", ");
    let text = format!(
        "[windows]\nzone = \"Europe/Berlin\"\n{}[windows.tier]\n1 = {{ mode = \"strict\", windows = [{names}] }}\n",
        (0..32).map(window).collect::<String>()
    );
    let head = HEAD.replace("2026-11-28", "2099-11-28");
    assert!(Plan::parse(format!("{head}{text}").as_bytes()).is_ok());
}
