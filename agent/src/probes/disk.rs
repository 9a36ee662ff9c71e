//! Probe `disk`: room on the file system that holds a path.
//!
//! Owns the meaning of free. Main invariant: free is what a program without privileges may still write.
//! Refuses to wait for a file system that hangs: the question is asked on a thread of its own.

use std::time::Duration;

use lunar_common::health::Outcome;
use nix::sys::statvfs::statvfs;

use super::{Context, inconclusive, unhealthy};

pub(super) async fn ask(path: &str, free_bytes_min: u64, timeout: Duration, context: &Context) -> Outcome {
    let path = match context.expand(path) {
        Ok(path) => path,
        Err(error) => return inconclusive(error.to_string()),
    };
    let asked = path.clone();
    let answer = tokio::task::spawn_blocking(move || statvfs(asked.as_str()));
    match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(Ok(figures))) => {
            let free = figures.blocks_available().saturating_mul(figures.fragment_size());
            if free >= free_bytes_min {
                Outcome::Healthy
            } else {
                unhealthy(format!("{path} has {free} bytes free, {free_bytes_min} are wanted"))
            }
        }
        Ok(Ok(Err(error))) => inconclusive(format!("cannot ask for the room on {path}: {error}")),
        Ok(Err(error)) => inconclusive(format!("asking for the room on {path} failed: {error}")),
        Err(_) => inconclusive(format!("{path} did not answer within {} s", timeout.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::test_context;

    #[tokio::test]
    async fn too_little_room_is_unhealthy_and_no_such_path_is_inconclusive() {
        assert_eq!(asked("/", 1).await, Outcome::Healthy);
        assert!(matches!(asked("${root}", u64::MAX).await, Outcome::Unhealthy { .. }));
        assert!(matches!(asked("/no/such/path", 1).await, Outcome::Inconclusive { .. }));
    }

    async fn asked(path: &str, free_bytes_min: u64) -> Outcome {
        ask(path, free_bytes_min, Duration::from_secs(60), &test_context()).await
    }
}
