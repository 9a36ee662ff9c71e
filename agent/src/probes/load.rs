//! Probe `load`: runnable tasks for each core.
//!
//! Owns the arithmetic. Main invariant: the figure is the one-minute average over the number of cores, in
//! percent. A machine that tells no figure is inconclusive. Refuses to smooth: the soak does that.

use lunar_common::health::Outcome;
use sysinfo::System;

use super::{inconclusive, unhealthy};

pub(super) fn ask(per_core_percent_max: u32) -> Outcome {
    match (System::load_average(), std::thread::available_parallelism()) {
        (Ok(load), Ok(cores)) => judge(load.one, cores.get(), per_core_percent_max),
        (Err(error), _) => inconclusive(format!("this machine does not tell its load: {error}")),
        (_, Err(error)) => inconclusive(format!("this machine does not tell its cores: {error}")),
    }
}

fn judge(load: f64, cores: usize, per_core_percent_max: u32) -> Outcome {
    let percent = load * 100.0 / cores as f64;
    if percent.is_nan() {
        inconclusive("the load average is not a number")
    } else if percent <= f64::from(per_core_percent_max) {
        Outcome::Healthy
    } else {
        unhealthy(format!(
            "load {load:.2} on {cores} cores is {percent:.0} %, at most {per_core_percent_max} % is wanted"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_told_for_each_core() {
        assert_eq!(judge(2.0, 2, 100), Outcome::Healthy);
        assert!(matches!(judge(2.1, 2, 100), Outcome::Unhealthy { .. }));
        assert!(matches!(judge(f64::NAN, 2, 100), Outcome::Inconclusive { .. }));
        assert_eq!(ask(u32::MAX), Outcome::Healthy);
    }
}
