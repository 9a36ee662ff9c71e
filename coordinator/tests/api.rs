//! The API as those see it who build on it: a running coordinator, certificates, curl.
//!
//! Owns who is let in, what they may do, and what becomes of bad input: each a clear refusal, and nothing changed. Needs
//! curl.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use lunar_common::document::{Kind, SignedDocument};
use serde_json::{Value, json};
use support::{Home, Serving, machine_enrolment, revocation, signed, wide_plan};

/// A coordinator whose API is open to ann, an operator, and vera, a viewer.
struct Base {
    home: Home,
    serving: Serving,
}

/// What curl was answered.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The problem's title and detail, once everything that every problem owes is there.
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}{}", self.head, self.body);
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        format!("{}: {}", problem["title"].as_str().unwrap(), problem["detail"].as_str().unwrap())
    }
}

impl Base {
    fn new(machines: impl IntoIterator<Item = u8>) -> Self {
        let home = Home::founded(machines);
        for command in [
            &["pki", "init"][..],
            &["pki", "issue", "ann", "--role", "operator"],
            &["pki", "issue", "vera", "--role", "viewer"],
        ] {
            let said = home.run(command);
            assert_eq!(said.code, 0, "{}", said.err);
        }
        let serving = home.serve_with(&["--api-listen", "127.0.0.1:0"]);
        Self { home, serving }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}/api/v1{path}", self.serving.api.as_ref().unwrap())
    }

    fn curl(&self, who: &str, path: &str, options: &[&str]) -> Answer {
        let said = self.curl_raw(who, path, options);
        assert_eq!(said.0, 0, "{}", said.2);
        // An early answer to a long body comes behind the one that asks for the body.
        let text = said.1.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn curl_command(&self, who: &str, path: &str, options: &[&str]) -> Command {
        let pki = self.home.path("pki");
        let file = |name: &str| pki.join(name).to_str().unwrap().to_owned();
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--include", "--max-time", "100"]);
        command.args(["--cacert", &file("ca.pem")]);
        if !who.is_empty() {
            let (certificate, key) = (format!("callers/{who}.pem"), format!("callers/{who}.key"));
            command.args(["--cert", &file(&certificate), "--key", &file(&key)]);
        }
        command.args(options).arg(self.url(path)).stdin(Stdio::null());
        command
    }

    fn curl_raw(&self, who: &str, path: &str, options: &[&str]) -> (i32, String, String) {
        let output = self.curl_command(who, path, options).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn post(&self, who: &str, document: &SignedDocument) -> Answer {
        let upload = upload(document).to_string();
        self.curl(who, "/documents", &["--json", &upload])
    }

    /// All records of the log.
    fn events(&self) -> Value {
        self.curl("vera", "/events", &[]).json()
    }
}

#[test]
fn an_operator_runs_a_campaign_with_curl_alone_and_a_viewer_looks_and_changes_nothing() {
    let base = Base::new([1, 2]);

    let refused = base.post("vera", &wide_plan()).problem(403);
    assert!(refused.contains("vera has the role viewer, and this takes operator"), "{refused}");
    assert_eq!(base.curl("vera", "/campaigns", &[]).json(), json!([]), "a role only admits");

    let plan = wide_plan();
    let first = base.post("ann", &plan);
    assert_eq!((first.status, first.json()["new"].clone()), (201, json!(true)), "{}", first.body);
    let again = base.post("ann", &plan);
    assert_eq!((again.status, again.json()["new"].clone()), (200, json!(false)), "its hash is its identity");
    assert_eq!(first.json()["hash"], again.json()["hash"]);

    let shown = base.curl("vera", "/campaigns/web-2/plan", &[]).json();
    assert_eq!(shown, upload(&plan), "anyone can check what is in force with stock tools");
    let hash = first.json()["hash"].as_str().unwrap().to_owned();
    assert_eq!(base.curl("vera", &format!("/documents/{hash}"), &[]).json(), shown);
    let listed = base.curl("vera", "/documents", &[]).json();
    assert!(listed.as_array().unwrap().contains(&json!({ "hash": hash, "kind": "plan" })), "{listed}");

    let halt = "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\nsequence = 1\n\
                issued = \"2026-01-03T00:00:00Z\"\nreason = \"look\"\n";
    assert_eq!(base.post("ann", &signed(Kind::Halt, halt.to_owned(), 1)).status, 201);
    assert_eq!(base.curl("vera", "/halts", &[]).json()[0]["reason"], "look");
    let campaign = base.curl("vera", "/campaigns/web-2", &[]).json();
    assert_eq!(campaign["halted"]["sequence"], 1, "{campaign}");

    let why = base.curl("vera", "/servers/srv-1/why", &[]).json();
    assert_eq!(why[0]["campaign"], "web-2", "{why}");
    assert!(base.curl("vera", "/audit", &[]).json()["intact"].as_bool().unwrap());
    for path in [
        "/health",
        "/status",
        "/campaigns/web-2/stages",
        "/campaigns/web-2/pauses",
        "/campaigns/web-2/limits",
    ] {
        assert_eq!(base.curl("vera", path, &[]).status, 200, "{path}");
    }
    assert_eq!(base.serving.stop().0, 0);
}

#[test]
fn the_command_line_does_the_same_over_the_network_as_by_the_socket() {
    let base = Base::new([1, 2]);
    let url = format!("https://{}", base.serving.api.as_ref().unwrap());
    for question in [&["status", "--servers"][..], &["history"], &["lease", "list"], &["audit", "verify"]] {
        let asked: Vec<&str> = ["--output", "json"].iter().chain(question).copied().collect();
        let mut over: Vec<&str> = vec!["--api", &url, "--api-as", "vera"];
        over.extend(&asked);
        let (near, far) = (base.home.run(&asked).json(), base.home.run(&over).json());
        assert_eq!(near["status"], far["status"], "{question:?}");
        assert_eq!(near.as_array().map(Vec::len), far.as_array().map(Vec::len), "{question:?}");
    }

    // Named by its path, from another directory.
    let elsewhere = Home::empty();
    let ann = base.home.path("pki/ann");
    for kind in ["pem", "key"] {
        let from = base.home.path(&format!("pki/callers/ann.{kind}"));
        std::fs::copy(from, ann.with_extension(kind)).unwrap();
    }
    let said = elsewhere.run(&["--api", &url, "--api-as", ann.to_str().unwrap(), "status"]);
    assert_eq!(said.code, 0, "{}", said.err);

    for (options, code, words) in [
        (&["--api", "http://127.0.0.1:1", "--api-as", "ann"][..], 2, "write --api https://HOST:PORT"),
        (&["--api", &url], 2, "--api-as"),
        (&["--api", &url, "--api-as", "nobody"], 3, "pki"),
        (
            &["--api", "https://127.0.0.1:1", "--api-as", "ann"],
            5,
            "no coordinator answers at https://127.0.0.1:1",
        ),
    ] {
        let mut command = options.to_vec();
        command.push("status");
        let said = base.home.run(&command);
        assert_eq!(said.code, code, "{options:?}: {}", said.err);
        assert!(said.err.contains(words), "{options:?}: {}", said.err);
    }
    assert_eq!(base.serving.stop().0, 0);
}

#[test]
fn whoever_has_no_certificate_or_a_foreign_one_gets_not_past_the_handshake() {
    let base = Base::new([]);
    let foreign = Home::empty();
    assert_eq!(foreign.run(&["pki", "init"]).code, 0);
    assert_eq!(foreign.run(&["pki", "issue", "eve", "--role", "operator"]).code, 0);
    for kind in ["pem", "key"] {
        let name = format!("pki/callers/eve.{kind}");
        std::fs::copy(foreign.path(&name), base.home.path(&name)).unwrap();
    }

    for who in ["", "eve"] {
        let (code, out, err) = base.curl_raw(who, "/status", &[]);
        assert_ne!(code, 0, "{who:?}: {out}");
        assert_eq!(out, "", "{who:?}: not a byte of an answer");
        assert!(err.contains("curl"), "{err}");
    }
    // The coordinator's own certificate is for its end alone.
    for kind in ["pem", "key"] {
        std::fs::copy(
            base.home.path(&format!("pki/server.{kind}")),
            base.home.path(&format!("pki/callers/server.{kind}")),
        )
        .unwrap();
    }
    assert_ne!(base.curl_raw("server", "/status", &[]).0, 0);
    assert_eq!(base.curl("vera", "/status", &[]).status, 200, "the others are not disturbed");
    assert_eq!(base.serving.stop().0, 0);
}

#[test]
fn bad_input_is_refused_with_a_problem_each_and_the_log_is_as_before() {
    let base = Base::new([1]);
    assert_eq!(base.post("ann", &wide_plan()).status, 201);
    let before = base.events();

    let good = upload(&revocation(&[1]));
    let with = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        changed.to_string()
    };
    let mut unsigned = wide_plan();
    unsigned.body = [unsigned.body, b"# more\n".to_vec()].concat();
    for (body, status, words) in [
        ("{".to_owned(), 400, "the body is not what it should be"),
        ("[]".to_owned(), 422, "the body is not what it should be"),
        (with("kind", json!("wish")), 422, "wish"),
        (with("body", json!(7)), 422, "body"),
        (with("signatures", json!("x")), 422, "signatures"),
        (with("more", json!(1)), 422, "more"),
        (upload(&signed(Kind::Halt, "= no TOML".to_owned(), 1)).to_string(), 422, "the document is wrong"),
        (with("signatures", json!([])), 403, "the document is refused"),
        (upload(&unsigned).to_string(), 403, "the document is refused"),
    ] {
        let told = base.curl("ann", "/documents", &["--json", &body]).problem(status);
        assert!(told.contains(words), "{body:.80}: {told}");
    }

    let huge = base.home.path("huge");
    std::fs::write(&huge, vec![b' '; 4 * 1024 * 1024]).unwrap();
    let huge = format!("@{}", huge.display());
    base.curl("ann", "/documents", &["--json", &huge]).problem(413);
    let text = upload(&revocation(&[1])).to_string();
    base.curl("ann", "/documents", &["--data", &text, "--header", "Content-Type: text/plain"]).problem(415);
    let other = base.curl("ann", "/status", &["--json", "{}"]);
    other.problem(405);
    assert!(other.head.contains("allow: get"), "{}", other.head);
    for (path, status) in [
        ("/nothing", 404),
        ("/servers/srv-9", 404),
        ("/servers/srv-9/why", 404),
        ("/servers/srv-9/history", 404),
        ("/campaigns/none", 404),
        ("/campaigns/none/plan", 404),
        ("/campaigns/none/limits", 404),
        ("/servers/-x", 400),
        ("/documents/abc", 400),
        ("/servers?limit=x", 400),
        ("/servers?limit=-1", 400),
        ("/servers?cursor=-x", 400),
        ("/servers?colour=red", 400),
        ("/events?since=x", 400),
        ("/audit?head=7", 400),
    ] {
        base.curl("vera", path, &[]).problem(status);
    }
    base.curl("vera", "/../../elsewhere", &[]).problem(404);

    assert_eq!(base.events(), before, "nothing was changed by any of it");
    assert_eq!(base.serving.stop().0, 0);
}

#[test]
fn pages_follow_one_another_until_each_server_and_record_was_shown_once() {
    let base = Base::new(1..=7);
    for (path, key) in [("/servers?limit=3", "/member/server"), ("/events?limit=4", "/index")] {
        let mut seen = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let page = base.curl("vera", &path, &[]).json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 4, "{page}");
            seen.extend(items.iter().map(|item| item.pointer(key).unwrap().clone()));
            next = page["next"].as_str().map(|next| next.strip_prefix("/api/v1").unwrap().to_owned());
        }
        if key == "/index" {
            assert_eq!(seen, (0..seen.len()).map(|index| json!(index)).collect::<Vec<_>>());
        } else {
            assert_eq!(seen, (1..=7).map(|number| json!(format!("srv-{number}"))).collect::<Vec<_>>());
        }
    }
    assert_eq!(base.serving.stop().0, 0);
}

#[test]
fn an_answer_that_the_caller_has_already_is_not_sent_again() {
    let base = Base::new([1]);
    let first = base.curl("vera", "/campaigns", &[]);
    let tag = first.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_owned();

    let second = base.curl("vera", "/campaigns", &["--header", &format!("If-None-Match: \"x\", W/{tag}")]);
    assert_eq!((second.status, second.body.as_str()), (304, ""));

    assert_eq!(base.post("ann", &wide_plan()).status, 201);
    let third = base.curl("vera", "/campaigns", &["--header", &format!("If-None-Match: {tag}")]);
    assert_eq!(third.status, 200, "{}", third.head);
    assert_eq!(base.serving.stop().0, 0);
}

#[test]
fn an_authority_is_made_once_and_its_keys_are_their_owners_alone() {
    let home = Home::empty();
    let none = home.run(&["pki", "issue", "ann", "--role", "viewer"]);
    assert_eq!(none.code, 3, "{}", none.err);
    assert!(none.err.contains("pki init"), "{}", none.err);

    assert_eq!(home.run(&["pki", "init", "--host", "base.example", "--host", "10.0.0.7"]).code, 0);
    assert_eq!(home.run(&["pki", "issue", "ann", "--role", "viewer"]).code, 0);
    for key in ["pki/ca.key", "pki/server.key", "pki/callers/ann.key"] {
        let mode = std::fs::metadata(home.path(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let authority = std::fs::read(home.path("pki/ca.key")).unwrap();

    for again in [&["pki", "init"][..], &["pki", "issue", "ann", "--role", "operator"], &["pki", "server"]] {
        let said = home.run(again);
        assert_eq!(said.code, 3, "{again:?}: {}", said.err);
        assert!(said.err.contains("nothing is replaced"), "{}", said.err);
    }
    assert_eq!(std::fs::read(home.path("pki/ca.key")).unwrap(), authority);

    let impossible = Home::empty().run(&["pki", "init", "--host", "no host"]);
    assert_eq!(impossible.code, 2, "{}", impossible.err);
}

#[test]
fn an_api_without_its_certificates_or_on_an_impossible_address_is_told_before_anything_starts() {
    let home = Home::founded([]);
    let serve = |address: &str| home.run(&["serve", "--listen", "127.0.0.1:0", "--api-listen", address]);
    let said = serve("127.0.0.1:0");
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.err.contains("pki init"), "{}", said.err);

    assert_eq!(home.run(&["pki", "init"]).code, 0);
    let said = serve("nonsense");
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.err.contains("nonsense"), "{}", said.err);
}

fn upload(document: &SignedDocument) -> Value {
    json!({
        "kind": document.kind,
        "body": String::from_utf8(document.body.clone()).unwrap(),
        "signatures": document.signatures,
    })
}

#[test]
fn events_are_followed_as_they_happen_and_resumed_behind_the_last_one_that_was_seen() {
    let base = Base::new([1]);
    let known = base.curl("vera", "/events", &[]).json()["items"].as_array().unwrap().len();
    let last = format!("Last-Event-ID: {}", known - 2);
    let mut listening = base.curl_command("vera", "/events/stream", &["--no-buffer", "--header", &last]);
    let mut listening = listening.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(listening.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = || -> (u64, Value) {
        let id = lines.find_map(|line| line.strip_prefix("id: ").map(str::to_owned)).unwrap();
        let data = lines.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).unwrap();
        (id.parse().unwrap(), serde_json::from_str(&data).unwrap())
    };

    assert_eq!(next().0, known as u64 - 1, "what it had missed");
    assert_eq!(base.post("ann", &wide_plan()).status, 201);
    let (mut id, mut event) = next();
    assert_eq!(id, known as u64, "then what happens");
    while event["event"]["PlanAccepted"].is_null() {
        let after = next();
        assert_eq!(after.0, id + 1);
        (id, event) = after;
    }
    assert_eq!(event["event"]["PlanAccepted"]["terms"]["campaign"], "web-2");

    listening.kill().unwrap();
    listening.wait().unwrap();
    base.curl("vera", "/events/stream", &["--header", "Last-Event-ID: x"]).problem(400);
    base.curl("vera", "/events/stream?from=x", &[]).problem(400);
    assert_eq!(base.serving.stop().0, 0);
}

#[test]
fn the_description_that_is_served_is_the_one_that_the_command_prints() {
    let base = Base::new([]);
    let served = base.curl("vera", "/openapi.json", &[]).json();
    let printed = base.home.run(&["openapi"]).json();
    assert_eq!(served, printed);
    assert_eq!(served["openapi"], "3.1.0");
    assert_eq!(base.serving.stop().0, 0);
}

/// One machine's enrolment can be handed over like anything else that people sign.
#[test]
fn an_enrolment_that_is_handed_over_makes_a_member() {
    let base = Base::new([]);
    assert_eq!(base.post("ann", &machine_enrolment(3)).status, 201);
    assert_eq!(base.curl("vera", "/servers/srv-3", &[]).json()["member"]["site"], "base");
    assert_eq!(base.serving.stop().0, 0);
}
