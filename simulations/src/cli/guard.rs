//! Panics of a core or the world, caught and told.
//!
//! Owns [`guarded`]. Main invariant: a panic ends one run and never the program, and what it said is kept with the
//! thread that it happened on.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From here on panics say nothing by themselves: [`guarded`] hands on what they said.
pub(crate) fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let trace = std::backtrace::Backtrace::capture();
        let trace = match trace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{trace}"),
            _ => String::new(),
        };
        SAID.with(|said| *said.borrow_mut() = Some(format!("{info}{trace}")));
    }));
}

/// Runs something; `Err` is what a panic in it said.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| {
        let said = SAID.with(|said| said.borrow_mut().take());
        said.unwrap_or_else(|| "a panic that said nothing".to_owned())
    })
}
