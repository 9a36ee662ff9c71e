//! `compare`: two results side by side.
//!
//! Owns the table of differences. Main invariant: only what differs is shown, and nothing that differs is left out;
//! what depends on the machine alone is shown apart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::result::RunResult;
use super::words::{bytes, count, duration};
use super::{Exit, Output, Refused};

/// Compares two result files.
#[derive(Debug, clap::Args)]
pub(crate) struct CompareCommand {
    /// The earlier result, written with `run … --output json`.
    before: PathBuf,
    /// The later one.
    after: PathBuf,
    /// For people, or for programs.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, serde::Serialize)]
struct Difference {
    figure: String,
    before: Value,
    after: Value,
}

impl CompareCommand {
    pub(crate) fn run(self) -> Result<Exit, Refused> {
        let before = RunResult::load(&self.before)?;
        let after = RunResult::load(&self.after)?;
        let differences = differences(&before, &after)?;
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&differences)?),
            Output::Text => print!("{}", text(&before, &after, &differences)),
        }
        Ok(Exit::Held)
    }
}

/// Every figure that is not the same, by its name.
fn differences(before: &RunResult, after: &RunResult) -> Result<Vec<Difference>, Refused> {
    let (before, after) = (flat(before)?, flat(after)?);
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |of: &BTreeMap<String, Value>, name: &String| of.get(name).cloned().unwrap_or(Value::Null);
    Ok(names
        .into_iter()
        .map(|name| Difference {
            figure: name.clone(),
            before: value(&before, name),
            after: value(&after, name),
        })
        .filter(|difference| difference.before != difference.after)
        .collect())
}

/// All figures of a result by dotted names; lists by the name that their members have.
fn flat(result: &RunResult) -> Result<BTreeMap<String, Value>, Refused> {
    let mut all = BTreeMap::new();
    for (name, value) in [
        ("", serde_json::to_value(&result.figures)?),
        ("scenario", serde_json::to_value(&result.scenario)?),
        ("seed", serde_json::to_value(result.seed)?),
        ("strikes", serde_json::to_value(result.strikes)?),
        ("verdict", serde_json::to_value(result.verdict)?),
        ("trace", serde_json::to_value(&result.trace)?),
        ("took", serde_json::to_value(result.took)?),
    ] {
        flatten(name, value, &mut all);
    }
    Ok(all)
}

fn flatten(name: &str, value: Value, all: &mut BTreeMap<String, Value>) {
    let under = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(members) => {
            members.into_iter().for_each(|(key, value)| flatten(&under(&key), value, all))
        }
        Value::Array(members) => {
            for (at, value) in members.into_iter().enumerate() {
                let named = ["scope", "tier"].iter().find_map(|key| value.get(*key));
                let key = named.map_or_else(|| at.to_string(), |named| named.to_string().replace('"', ""));
                flatten(&under(&key), value, all);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            all.insert(name.to_owned(), value);
        }
    }
}

fn text(before: &RunResult, after: &RunResult, differences: &[Difference]) -> String {
    let mut text = String::new();
    if (&before.scenario, before.seed) != (&after.scenario, after.seed) {
        text += "These are not two runs of one scenario and seed: what differs may say nothing about the program.\n";
    }
    let of_machine = |difference: &&Difference| difference.figure.starts_with("took.");
    let (machine, figures): (Vec<_>, Vec<_>) = differences.iter().partition(of_machine);
    if figures.is_empty() {
        text += "The same run to the last event: every figure and the trace are equal.\n";
    } else {
        text += &table("figure", &figures);
    }
    if !machine.is_empty() {
        text += &format!("\n{}", table("on this machine", &machine));
    }
    text
}

fn table(head: &str, rows: &[&Difference]) -> String {
    let cells = |row: &&Difference| {
        let (before, after) = (shown(&row.figure, &row.before), shown(&row.figure, &row.after));
        [row.figure.clone(), before, after, change(&row.before, &row.after)]
    };
    let heads = [head, "before", "after", "change"].map(str::to_owned);
    let all: Vec<[String; 4]> = std::iter::once(heads).chain(rows.iter().map(cells)).collect();
    let width = |at: usize| all.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let line = |[figure, before, after, change]: &[String; 4]| {
        let [a, b, c, d] = widths;
        format!("{figure:<a$}  {before:>b$}  {after:>c$}  {change:>d$}\n")
    };
    all.iter().map(line).collect()
}

/// A value in the unit that its name ends in.
fn shown(name: &str, value: &Value) -> String {
    match (value, value.as_u64()) {
        (_, Some(number)) if name.ends_with("_ms") => duration(number),
        (_, Some(number)) if name.ends_with("_bytes") => bytes(number),
        (_, Some(number)) => count(number),
        (Value::Null, _) => "–".to_owned(),
        (Value::String(text), _) => text.clone(),
        (other, _) => other.to_string(),
    }
}

/// By how much of the earlier number it grew or shrank.
fn change(before: &Value, after: &Value) -> String {
    let (Some(before), Some(after)) = (before.as_u64(), after.as_u64()) else { return String::new() };
    if before == 0 {
        return String::new();
    }
    let (sign, by) = if after >= before { ('+', after - before) } else { ('-', before - after) };
    let thousandths = u128::from(by) * 1_000 / u128::from(before);
    format!("{sign}{}.{} %", thousandths / 10, thousandths % 10)
}
