//! From the signed bytes to a typed document, and what to tell a person when that fails.
//!
//! Owns [`Document::parse`]. Main invariant: bytes are bounded before they are read, unknown keys are refused,
//! and whatever comes out has passed its kind's own checks. Every refusal names the place.

use std::fmt;

use serde::de::DeserializeOwned;

use super::{Approval, Halt, Kind, Reap, Resume};
use crate::bounds::{DOCUMENT_BYTES_MAX, PAUSES_PER_RESUME_MAX, TEXT_BYTES_MAX};
use crate::curb::Curb;
use crate::ids::{FleetId, Sequence};
use crate::time::WallTime;

/// A kind of document that people sign.
pub trait Document: DeserializeOwned {
    /// Which kind.
    const KIND: Kind;

    /// The fleet it is for.
    fn fleet(&self) -> &FleetId;

    /// When it was made, by its author's clock.
    fn issued(&self) -> WallTime;

    /// Everything wrong with it that can be told from itself alone.
    fn problems(&self) -> Vec<Problem>;

    /// The document in these bytes.
    ///
    /// # Errors
    /// [`ContentError`] names every place that is wrong.
    fn parse(body: &[u8]) -> Result<Self, ContentError> {
        let document: Self = parse_toml(Self::KIND, body)?;
        let problems = document.problems();
        if problems.is_empty() {
            Ok(document)
        } else {
            Err(ContentError::Problems { kind: Self::KIND, problems })
        }
    }
}

/// Something wrong in a document, with the key it concerns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct Problem {
    /// Dotted path of the key, as in the file (`health.probe[2].timeout_s`).
    pub key: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Problem {
    /// A problem with a key.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

/// Why bytes are not a document of the kind wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Over the bound; not even looked at.
    #[error("the {kind} has {length} bytes; at most {DOCUMENT_BYTES_MAX} are read")]
    TooLong {
        /// What it should have been.
        kind: Kind,
        /// Its length.
        length: usize,
    },
    /// Not UTF-8.
    #[error("the {kind} is not text: line {line} holds bytes that are not UTF-8")]
    NotText {
        /// What it should have been.
        kind: Kind,
        /// The first such line, counted from 1.
        line: usize,
    },
    /// Not TOML, or not of this shape.
    #[error("the {kind} is wrong at line {}, column {}: {problem}{place}", place.line, place.column)]
    Syntax {
        /// What it should have been.
        kind: Kind,
        /// Where.
        place: Place,
        /// What is wrong, and what was perhaps meant.
        problem: String,
    },
    /// Well formed, and impossible.
    #[error("the {kind} cannot be used:{}", listed(problems))]
    Problems {
        /// What it is.
        kind: Kind,
        /// Everything wrong with it.
        problems: Vec<Problem>,
    },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}

/// A place in a text, with the line itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// The line's text, cut to what fits on a screen.
    pub text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  {:>4} | {}", self.line, self.text)
    }
}

impl Place {
    /// The place this many bytes into a text.
    pub(crate) fn at(text: &str, offset: usize) -> Self {
        let offset = (0..=offset.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let before = &text[..offset];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let whole = text[start..].lines().next().unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: text[start..offset].chars().count() + 1,
            text: whole.chars().filter(|c| !c.is_control()).take(LINE_SHOWN_MAX).collect(),
        }
    }
}

/// Characters of a faulty line that are shown: one screen's width.
const LINE_SHOWN_MAX: usize = 100;

fn parse_toml<T: DeserializeOwned>(kind: Kind, body: &[u8]) -> Result<T, ContentError> {
    if body.len() > DOCUMENT_BYTES_MAX {
        return Err(ContentError::TooLong { kind, length: body.len() });
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = body[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        ContentError::NotText { kind, line }
    })?;
    toml::from_str(text).map_err(|error| ContentError::Syntax {
        kind,
        place: Place::at(text, error.span().map_or(0, |span| span.start)),
        problem: in_our_words(error.message()),
    })
}

/// Where and why a text is not the TOML that was wanted, for files that nobody signs (configuration).
#[must_use]
pub fn explain_toml(text: &str, error: &toml::de::Error) -> (Place, String) {
    (Place::at(text, error.span().map_or(0, |span| span.start)), in_our_words(error.message()))
}

/// serde speaks of fields; a person sees keys. A misspelt one gets the nearest known one.
fn in_our_words(message: &str) -> String {
    let message = message.trim_end().replace('\n', "; ");
    if let Some(rest) = message.strip_prefix("missing field ") {
        return format!("missing key {rest}");
    }
    let unknown = [("unknown field `", "key"), ("unknown variant `", "value")]
        .into_iter()
        .find_map(|(prefix, what)| Some((message.strip_prefix(prefix)?, what)));
    let Some((rest, what)) = unknown else { return message };
    let Some((found, expected)) = rest.split_once('`') else { return message };
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let found: String = found.chars().take(LINE_SHOWN_MAX).collect();
    match nearest(&found, known.iter().copied()) {
        Some(name) => format!("unknown {what} `{found}`; did you mean `{name}`?"),
        None => format!("unknown {what} `{found}`; known here: {}", known.join(", ")),
    }
}

/// The known name that was perhaps meant by an unknown one: few letters away, for its length.
#[must_use]
pub fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (steps, name) = known.map(|name| (distance(found, name), name)).min()?;
    (steps <= 1 + found.len() / 3).then_some(name)
}

/// How many letters must be added, removed or changed to make one word of another (Levenshtein). Words longer
/// than any key of ours are simply far away, so that a hostile key costs no more than a real one.
fn distance(from: &str, to: &str) -> usize {
    if from.len() > 64 || to.len() > 64 {
        return usize::MAX;
    }
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// What every kind shares: its format, and a counter that begins at 1.
pub(crate) fn check_head(problems: &mut Vec<Problem>, format: u32, counter: (&str, u64)) {
    if format != 1 {
        problems.push(Problem::new("format", format!("{format} is not known to this program; write 1")));
    }
    if counter.1 == 0 {
        problems.push(Problem::new(counter.0, "counts from 1"));
    }
}

/// A text for people: there, short, and without control characters that could forge a log line.
pub(crate) fn check_text(problems: &mut Vec<Problem>, key: &str, text: &str, required: bool) {
    if required && text.trim().is_empty() {
        problems.push(Problem::new(key, "must say something: people will ask why"));
    }
    if text.len() > TEXT_BYTES_MAX {
        problems.push(Problem::new(key, format!("has {} bytes; at most {TEXT_BYTES_MAX}", text.len())));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        problems.push(Problem::new(key, "holds control characters; write plain text"));
    }
}

/// An end that lies after the beginning.
pub(crate) fn check_expiry(problems: &mut Vec<Problem>, issued: WallTime, expires: WallTime) {
    if expires <= issued {
        problems.push(Problem::new("expires", format!("{expires} is not after issued ({issued})")));
    }
}

fn small_problems(format: u32, sequence: Sequence, reason: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_head(&mut problems, format, ("sequence", sequence.0));
    check_text(&mut problems, "reason", reason, true);
    problems
}

impl Document for Halt {
    const KIND: Kind = Kind::Halt;
    fn fleet(&self) -> &FleetId {
        &self.fleet
    }
    fn issued(&self) -> WallTime {
        self.issued
    }
    fn problems(&self) -> Vec<Problem> {
        small_problems(self.format, self.sequence, &self.reason)
    }
}

impl Document for Resume {
    const KIND: Kind = Kind::Resume;
    fn fleet(&self) -> &FleetId {
        &self.fleet
    }
    fn issued(&self) -> WallTime {
        self.issued
    }
    fn problems(&self) -> Vec<Problem> {
        let mut problems = small_problems(self.format, self.sequence, &self.reason);
        check_expiry(&mut problems, self.issued, self.expires);
        if !self.pauses.is_empty() && self.campaign.is_none() {
            problems.push(Problem::new("campaign", "is missing: name the campaign whose pauses these are"));
        }
        if self.pauses.len() > PAUSES_PER_RESUME_MAX {
            let found = self.pauses.len();
            problems.push(Problem::new(
                "pauses",
                format!("has {found} entries; at most {PAUSES_PER_RESUME_MAX}"),
            ));
        }
        problems
    }
}

impl Document for Reap {
    const KIND: Kind = Kind::Reap;
    fn fleet(&self) -> &FleetId {
        &self.fleet
    }
    fn issued(&self) -> WallTime {
        self.issued
    }
    fn problems(&self) -> Vec<Problem> {
        small_problems(self.format, self.sequence, &self.reason)
    }
}

impl Document for Curb {
    const KIND: Kind = Kind::Curb;
    fn fleet(&self) -> &FleetId {
        &self.fleet
    }
    fn issued(&self) -> WallTime {
        self.issued
    }
    fn problems(&self) -> Vec<Problem> {
        let mut problems = small_problems(self.format, self.sequence, &self.reason);
        check_expiry(&mut problems, self.issued, self.expires);
        self.check(&mut problems);
        problems
    }
}

impl Document for Approval {
    const KIND: Kind = Kind::Approval;
    fn fleet(&self) -> &FleetId {
        &self.fleet
    }
    fn issued(&self) -> WallTime {
        self.issued
    }
    fn problems(&self) -> Vec<Problem> {
        let mut problems = small_problems(self.format, self.sequence, &self.reason);
        check_expiry(&mut problems, self.issued, self.expires);
        if self.batch == 0 {
            problems.push(Problem::new("batch", "counts from 1"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALT: &str =
        "format = 1\nfleet = \"moon\"\nsequence = 3\nissued = \"2026-11-21T08:00:00Z\"\nreason = \"smoke\"\n";

    fn refused(text: &str) -> String {
        Halt::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_the_key_that_was_meant() {
        let said = refused(&HALT.replace("sequence", "sequnce"));
        assert_eq!(
            said,
            "the halt is wrong at line 3, column 1: unknown key `sequnce`; did you mean `sequence`?\
             \n     3 | sequnce = 3"
        );
        let said = refused(&format!("{HALT}zebra = true\n"));
        assert!(said.contains("unknown key `zebra`; known here: format, fleet, campaign"), "{said}");
    }

    #[test]
    fn a_missing_key_a_wrong_type_and_a_bad_time_are_told_in_our_words() {
        assert!(refused(&HALT.replace("reason = \"smoke\"\n", "")).contains("missing key `reason`"));
        let said = refused(&HALT.replace("3", "\"three\""));
        assert!(said.contains("line 3, column 12: invalid type: string \"three\", expected u64"), "{said}");
        let said = refused(&HALT.replace("2026-11-21T08:00:00Z", "yesterday"));
        assert!(said.contains("line 4") && said.contains("expected a time such as"), "{said}");
        assert!(refused(&HALT[..HALT.len() - 4]).contains("line 5"));
    }

    #[test]
    fn what_is_too_long_or_no_text_is_refused_before_it_is_parsed() {
        let long = vec![b'#'; DOCUMENT_BYTES_MAX + 1];
        assert!(matches!(Halt::parse(&long), Err(ContentError::TooLong { length: 1_048_577, .. })));
        assert_eq!(
            Halt::parse(b"format = 1\n\xff").unwrap_err(),
            ContentError::NotText { kind: Kind::Halt, line: 2 }
        );
    }

    #[test]
    fn impossible_values_are_listed_all_at_once() {
        let text = HALT.replace("format = 1", "format = 2").replace("= 3", "= 0").replace("smoke", " ");
        let ContentError::Problems { problems, .. } = Halt::parse(text.as_bytes()).unwrap_err() else {
            panic!("problems were expected")
        };
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["format", "sequence", "reason"]);
    }

    #[test]
    fn a_deeply_nested_document_is_refused_and_not_followed() {
        let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(Halt::parse(deep.as_bytes()), Err(ContentError::Syntax { .. })));
    }
}
