//! Builds that our programs start.
//!
//! Owns what such a build must not hear. Main invariant: a build started from a program that cargo runs is the build
//! that the same command at a prompt would be.

use std::process::Command;

/// Keeps from a build what cargo tells the program that starts it of that program's package: build scripts that look
/// at such variables (ring's does) would run again, and everything above them be compiled once more.
pub fn forget_package(command: &mut Command) {
    let told = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.as_encoded_bytes();
        name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
    });
    for name in told {
        command.env_remove(name);
    }
}
