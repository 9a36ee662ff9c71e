//! Removing an unpacked tree.
//!
//! Owns [`remove_tree`]. Main invariant: only what is below the given path is removed, following no link, and
//! a tree that is half gone can be removed again. An artifact may have directories that their owner cannot write to;
//! they go all the same.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Removes a directory with all that is in it. Nothing there is no error.
///
/// # Errors
/// As the operating system says.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            std::fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// Lets the owner into every directory of a tree. Only an unprivileged owner ever needs this, so that a
/// link slipped in meanwhile gives nobody anything that is not theirs already.
fn open_up(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.is_dir() {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(path)? {
        open_up(&entry?.path())?;
    }
    Ok(())
}
