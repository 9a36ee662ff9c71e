//! The program as a person meets it: exit codes, refusals, and what each command prints.
//!
//! Owns the tests of the real binary. Main invariant: every exit code that the help lists is reached here.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn lunar(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lunar-simulations"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ends by itself")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it prints text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it prints text")
}

/// A directory of this test alone.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target directory can be written");
    folder
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths here are UTF-8")
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    #[expect(clippy::disallowed_methods, reason = "the program is given files; no core sees them")]
    std::fs::write(&file, text).expect("the target directory can be written");
    path(&file).to_owned()
}

#[expect(clippy::disallowed_methods, reason = "the program wrote it; no core sees it")]
fn read(file: &Path) -> String {
    std::fs::read_to_string(file).expect("the program wrote it")
}

#[test]
fn a_run_that_holds_ends_with_0_and_reports_the_same_twice() {
    let run = || lunar(&["run", "scenarios/small.toml", "--seed", "3"]);
    let first = run();
    assert_eq!(code(&first), 0, "{}", err(&first));
    for part in [
        "small, seed 3: held",
        "Campaign ",
        "Down at once ",
        "Links ",
        "Rollbacks ",
        "Verdict: held.",
        "trace ",
    ] {
        assert!(out(&first).contains(part), "{part:?} is not in {}", out(&first));
    }
    assert_eq!(out(&first), out(&run()));
}

#[test]
fn a_run_that_breaks_an_invariant_ends_with_1_and_says_how_to_have_it_again() {
    let broken = lunar(&["replay", "1", "--broken", "wide-limits"]);
    assert_eq!(code(&broken), 1, "{}", err(&broken));
    assert!(out(&broken).contains("an invariant broke"), "{}", out(&broken));
    assert!(err(&broken).contains("have it again: lunar-simulations replay 1"), "{}", err(&broken));
}

#[test]
fn a_run_that_comes_to_no_end_ends_with_2() {
    let stuck = lunar(&["replay", "1", "--broken", "frees-nothing"]);
    assert_eq!(code(&stuck), 2, "{}", err(&stuck));
    assert!(out(&stuck).contains("did not converge"), "{}", out(&stuck));
}

#[test]
fn whatever_is_refused_ends_with_3_and_says_where_and_what_to_do() {
    let folder = folder("refused");
    let small = include_str!("../scenarios/small.toml");
    let misspelt = write(&folder, "misspelt.toml", &small.replace("days = 1", "dais = 1"));
    let newer = write(&folder, "newer.toml", &small.replace("format = 1", "format = 9"));
    let case = write(&folder, "case.toml", "format = 9\nseed = 1\n");
    let result = write(&folder, "result.json", "{\"format\": 9, \"program\": \"7.0.0\"}");
    let other = write(&folder, "other.json", "[1, 2]");
    let cases: [(&[&str], &str); 11] = [
        (&["run", "nowhere.toml"], "nowhere.toml cannot be read"),
        (&["run", &misspelt], "line 6, column 1: unknown key `dais`; did you mean `days`?"),
        (&["run", &newer], "the scenario has format 9; this version reads format 1"),
        (&["run", "scenarios/small.toml", "--days", "0"], "0 is out of range: write 1 to 31"),
        (&["run", "scenarios/small.toml", "--seed", "x"], "invalid value 'x'"),
        (&["replay", "no-such-file"], "neither a seed (a number) nor a file"),
        (&["replay", &case], "the seed file has format 9; this version reads format 1"),
        (&["replay", "1", "--broken", "wide"], "unknown variant `wide`"),
        (&["compare", &result, &result], "has format 9, written by 7.0.0"),
        (&["compare", &other, &other], "is no result file"),
        (&["trace", "srv-99"], "there is no server srv-99: there are srv-0 to srv-6"),
    ];
    for (arguments, said) in cases {
        let refused = lunar(arguments);
        assert_eq!(code(&refused), 3, "{arguments:?}: {}", err(&refused));
        assert!(err(&refused).contains(said), "{arguments:?}: {}", err(&refused));
        assert_eq!(out(&refused), "", "{arguments:?}");
    }
}

#[test]
fn a_panic_ends_with_4_and_names_the_seed() {
    let crashed = lunar(&["replay", "5", "--crash"]);
    assert_eq!(code(&crashed), 4, "{}", err(&crashed));
    assert!(err(&crashed).contains("crashed: seed 5 of small-5: panicked at"), "{}", err(&crashed));
    assert!(err(&crashed).contains("have it again: lunar-simulations replay 5"), "{}", err(&crashed));
}

#[test]
fn the_help_teaches_with_examples_and_exit_codes() {
    let help = lunar(&["--help"]);
    assert_eq!(code(&help), 0);
    for part in ["Examples:", "Exit codes:", "run ", "replay ", "shrink ", "compare ", "trace ", "fuzz "] {
        assert!(out(&help).contains(part), "{part:?}");
    }
    for command in ["run", "replay", "shrink", "compare", "trace", "fuzz"] {
        let help = lunar(&[command, "--help"]);
        assert!(out(&help).contains("Examples:"), "{command} has examples");
    }
}

#[test]
fn a_page_stands_alone_and_a_result_can_be_compared_with_itself_and_with_another() {
    let folder = folder("page");
    for seed in ["3", "4"] {
        let ran = lunar(&["run", "scenarios/small.toml", "--seed", seed, "--report", path(&folder)]);
        assert_eq!(code(&ran), 0, "{}", err(&ran));
    }
    let page = read(&folder.join("small-3.html"));
    for elsewhere in ["http:", "https:", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(elsewhere), "the page asks for {elsewhere}");
    }
    assert!(page.matches("<svg").count() >= 5, "it has its pictures");
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    let (three, four) = (folder.join("small-3.json"), folder.join("small-4.json"));
    let same = lunar(&["compare", path(&three), path(&three)]);
    assert_eq!(code(&same), 0, "{}", err(&same));
    assert!(out(&same).contains("The same run to the last event"), "{}", out(&same));
    let other = lunar(&["compare", path(&three), path(&four)]);
    assert!(out(&other).contains("not two runs of one scenario and seed"), "{}", out(&other));
    assert!(out(&other).contains("trace"), "{}", out(&other));
}

#[test]
fn a_server_s_life_is_told_from_its_start_to_its_end() {
    let life = lunar(&["trace", "srv-3", "--seed", "3"]);
    assert_eq!(code(&life), 0, "{}", err(&life));
    let text = out(&life);
    for part in ["node up", "scheduled -> downloading", "complete"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn fuzzing_runs_the_seeds_asked_for_and_says_how_many() {
    let fuzzed = lunar(&["fuzz", "--seeds", "4", "--jobs", "2", "--from", "11"]);
    assert_eq!(code(&fuzzed), 0, "{}", err(&fuzzed));
    assert_eq!(out(&fuzzed), "held: 4 worlds\n");
}

#[test]
fn a_failing_run_is_made_small_and_fails_again_from_its_file() {
    let folder = folder("shrink");
    let file = folder.join("small.toml");
    let shrunk = lunar(&["shrink", "1", "--broken", "wide-limits", "--into", path(&file)]);
    assert_eq!(code(&shrunk), 1, "{}", err(&shrunk));
    assert!(out(&shrunk).contains("0 strikes of"), "it fails without any fault: {}", out(&shrunk));
    let again = lunar(&["replay", path(&file)]);
    assert_eq!(code(&again), 1, "{}", err(&again));
    let sound = lunar(&["shrink", "1"]);
    assert_eq!((code(&sound), out(&sound).as_str()), (0, "1 does not fail: every invariant holds in it\n"));
}
