//! File systems and directories in which a socket cannot be made, or only just.

use crate::refused::start_guest;
use ringbell::{BindError, Server};
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::Start;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

/// Why there can be no mount namespace; `None` if there can.
fn missing() -> Option<String> {
    let arguments = ["--mount", "mount", "-t", "tmpfs", "none", "/mnt"];
    match Command::new("unshare").args(arguments).output() {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(format!(
            "a mount namespace takes CAP_SYS_ADMIN: {}",
            String::from_utf8_lossy(&tried.stderr).trim()
        )),
        Err(error) => Some(format!("unshare (util-linux) cannot be started: {error}")),
    }
}

/// What a server says that binds in a file system with these options.
fn in_a_file_system(options: &str) -> Result<(String, String), Ran> {
    if let Some(missing) = missing() {
        return Err(Ran::Skipped(missing));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let mount = format!("mount -t tmpfs -o {options} none {}", directory.path().display());
    let script = format!("{mount} && exec \"$0\" \"$@\"");
    let mut process = Start::role_under("unshare", &["--mount", "sh", "-c", &script], "host")
        .with("path", path.display())
        .start();
    let said = process.hear();
    process.succeed();
    Ok((said, path.display().to_string()))
}

pub(super) fn h5_a_full_file_system_is_named() -> Ran {
    // One inode, which is that of the root.
    match in_a_file_system("nr_inodes=1") {
        Ok((said, path)) => {
            assert_eq!(
                said,
                format!("error the file system of {path} is full, or its quota is used up")
            );
            done!("without an inode left")
        }
        Err(skipped) => skipped,
    }
}

pub(super) fn h5_a_read_only_file_system_is_named() -> Ran {
    match in_a_file_system("ro") {
        Ok((said, path)) => {
            assert_eq!(said, format!("error the file system of {path} is read-only"));
            done!("a read-only tmpfs")
        }
        Err(skipped) => skipped,
    }
}

pub(super) fn h5_a_foreign_lock_in_a_sticky_directory_is_named() -> Ran {
    if !rustix::process::geteuid().is_root() {
        return Ran::Skipped("giving a file to another user takes root".into());
    }
    const USER: u32 = 54_321;
    const OWNER: u32 = 54_322;
    let directory = tempfile::tempdir().expect("a directory");
    let mode = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(directory.path(), mode).expect("changed");
    let path = directory.path().join("s");
    let lock = directory.path().join("s.lock");
    std::fs::write(&lock, "").expect("written");
    chown(&lock, Some(OWNER), Some(OWNER)).expect("given");
    let mut process = Start::role("host").with("path", path.display()).with("uid", USER).start();
    let said = process.hear();
    process.succeed();
    let lock = lock.display().to_string();
    assert!(said.contains(&lock) && said.contains(&format!("uid {OWNER}")), "{said}");
    done!("{said}")
}

pub(super) fn h5_a_path_that_is_too_long_is_named() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s".repeat(200));
    match Server::bind(&path) {
        Err(error @ BindError::PathTooLong { len, max: 107 }) => {
            assert_eq!(len, path.as_os_str().len());
            assert!(error.to_string().contains("107"), "{error}");
            done!("{error}")
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn h5_a_relative_path_outlives_chdir() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let mut process = Start::role("host")
        .with("path", "s")
        .with("from", directory.path().display())
        .with("to", "/")
        .start();
    process.expect("ready");
    let (mut guest, said) = start_guest(&path, &[]);
    assert_eq!(said, "transport shared memory");
    guest.expect("done");
    guest.hang_up();
    guest.succeed();
    process.hang_up();
    process.expect("paused");
    process.succeed();
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("read").collect();
    assert!(left.is_empty(), "{left:?}");
    done!("the socket was removed, too")
}
