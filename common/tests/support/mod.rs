//! How plans that people break are tried.
//!
//! Owns what the tests of broken plans share. Main invariant: a case whose text is not in what it breaks fails, so that no
//! case tries nothing; all that are told wrongly are shown at once.

use lunar_common::document::Document;
use lunar_common::plan::Plan;

/// What a person is told of a plan; nothing if it is right.
pub fn told(plan: &str) -> String {
    Plan::parse(plan.as_bytes()).err().map(|error| error.to_string()).unwrap_or_default()
}

/// Breaks a text that is right in each way: what is replaced, by what, and what `told` must say of the result.
pub fn each_is_told(right: &str, broken: &[(&str, &str, &str)], told: impl Fn(&str) -> String) {
    let mut wrong = Vec::new();
    for (from, to, wanted) in broken {
        assert!(right.contains(from), "{from:?} is not in what is broken");
        let said = told(&right.replacen(from, to, 1));
        if !said.contains(wanted) {
            wrong.push(format!("{from:?} -> {to:?}\n  wanted: {wanted}\n  told:   {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
