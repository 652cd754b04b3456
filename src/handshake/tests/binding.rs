//! The listener.

use super::*;
use rustix::fs::{FileType, Mode, inotify};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;

fn bind(path: &Path) -> Result<Listener, BindError> {
    listen(path, &ListenOptions::default())
}

#[test]
fn a_socket_is_made_and_removed_with_its_directory_private() {
    let scratch = Scratch::new();
    let path = scratch.path("run/s");
    let options = ListenOptions { create_directory: true, ..ListenOptions::default() };
    let listener = listen(&path, &options).expect("bound");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&scratch.path("run"))), (0o600, 0o700));
    UnixStream::connect(&path).expect("it listens");
    assert!(!scratch.path("run/s.lock").exists());
    drop(listener);
    assert!(!path.exists() && !scratch.path("run/s.lock").exists());
}

#[test]
fn the_mode_of_the_socket_is_configurable() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let _listener =
        listen(&path, &ListenOptions { mode: 0o666, ..ListenOptions::default() }).expect("bound");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o666);
}

#[test]
fn a_live_server_is_not_replaced() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let _first = bind(&path).expect("bound");
    assert!(matches!(bind(&path), Err(BindError::AlreadyListening(at)) if at == path));
    UnixStream::connect(&path).expect("the first still listens");

    let other = scratch.path("datagram");
    let _datagram = UnixDatagram::bind(&other).expect("bound");
    assert!(
        matches!(bind(&other), Err(BindError::AlreadyListening(_))),
        "a socket of another type"
    );

    let full = scratch.path("full");
    let _full =
        listen(&full, &ListenOptions { backlog: 0, ..ListenOptions::default() }).expect("bound");
    let _waiting = UnixStream::connect(&full).expect("the only place");
    assert!(matches!(bind(&full), Err(BindError::AlreadyListening(_))), "a full backlog");
}

#[test]
fn a_stale_socket_is_replaced() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists(), "nobody removed it");
    let _listener = bind(&path).expect("replaced");
    UnixStream::connect(&path).expect("it listens");
}

#[test]
fn of_many_that_bind_one_wins() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    drop(UnixListener::bind(&path).expect("a stale one"));
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert!(
        results.iter().all(|result| matches!(result, Ok(_) | Err(BindError::AlreadyListening(_))))
    );
    UnixStream::connect(&path).expect("the winner listens");
}

#[test]
fn a_listener_leaves_the_socket_of_its_successor() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let first = bind(&path).expect("bound");
    std::fs::remove_file(&path).expect("somebody cleans up");
    let second = bind(&path).expect("bound anew");
    let inode = std::fs::metadata(&path).expect("there").ino();
    drop(first);
    assert_eq!(std::fs::metadata(&path).expect("still there").ino(), inode);
    drop(second);
    assert!(!path.exists());
}

#[test]
fn paths_that_cannot_be_bound() {
    let scratch = Scratch::new();
    let file = scratch.path("file");
    std::fs::write(&file, "precious").expect("written");
    assert!(matches!(bind(&file), Err(BindError::PathIsNotASocket(at)) if at == file));
    assert_eq!(std::fs::read(&file).expect("still there"), b"precious");
    let directory = scratch.path("directory");
    std::fs::create_dir(&directory).expect("made");
    assert!(matches!(bind(&directory), Err(BindError::PathIsNotASocket(_))));
    let link = scratch.path("link");
    std::os::unix::fs::symlink("nowhere", &link).expect("made");
    assert!(matches!(bind(&link), Err(BindError::PathIsNotASocket(_))));
    let options = ListenOptions { create_directory: true, ..ListenOptions::default() };
    let missing = listen(&scratch.path("a/b/s"), &options);
    assert!(matches!(missing, Err(BindError::ParentMissing(at)) if at == scratch.path("a")));
    assert!(!scratch.path("a").exists(), "only the last directory is made");
    assert!(matches!(bind(&file.join("s")), Err(BindError::ParentMissing(_))));
    assert!(matches!(bind(Path::new("")), Err(BindError::InvalidPath)));
    assert!(matches!(bind(Path::new("/tmp/a\0b")), Err(BindError::InvalidPath)));
    let long = PathBuf::from(format!("/{}", "x".repeat(107)));
    assert!(matches!(bind(&long), Err(BindError::PathTooLong { len: 108, max: 107 })));
    let longest = "x".repeat(107 - scratch.path("").as_os_str().len());
    bind(&scratch.path(&longest)).expect("the longest that can be");
}

#[test]
fn an_inherited_socket_is_checked() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let good = UnixListener::bind(&path).expect("bound");
    let listener = Listener::inherited(good.into()).expect("accepted");
    drop(listener);
    assert!(path.exists(), "its path belongs to the service manager");

    let (connected, _other) = UnixStream::pair().expect("made");
    assert!(matches!(Listener::inherited(connected.into()), Err(BindError::NotAListener)));
    let datagram = UnixDatagram::unbound().expect("made");
    assert!(matches!(Listener::inherited(datagram.into()), Err(BindError::NotAListener)));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    assert!(matches!(Listener::inherited(tcp.into()), Err(BindError::NotAListener)));
    let file = std::fs::File::open("/dev/null").expect("there");
    assert!(matches!(Listener::inherited(file.into()), Err(BindError::NotAListener)));
    assert!(matches!(listen_fds(), Ok(None)), "no service manager started the tests");
}

#[test]
fn c10_no_directory_is_made_unless_asked() {
    let scratch = Scratch::new();
    let (path, directory) = (scratch.path("run/s"), scratch.path("run"));
    let missing = bind(&path);
    assert!(matches!(missing, Err(BindError::ParentMissing(at)) if at == directory));
    assert!(!directory.exists());
}

#[test]
fn c10_a_socket_goes_with_its_server_wherever_its_directory_is() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("one")).expect("made");
    let listener = bind(&scratch.path("one/s")).expect("bound");
    std::fs::rename(scratch.path("one"), scratch.path("two")).expect("moved");
    drop(listener);
    assert_eq!(std::fs::read_dir(scratch.path("two")).expect("there").count(), 0);
}

/// What cannot be a lock, and what the error says of it.
#[test]
fn p9_a_lock_that_is_none_is_named() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let lock = scratch.path("s.lock");
    let target = scratch.path("target");
    let refused = |what: &str| {
        let error = bind(&path).expect_err("no lock");
        let BindError::LockUnusable { lock: named, owner, .. } = &error else { panic!("{error}") };
        assert_eq!((named, *owner), (&lock, rustix::process::geteuid().as_raw()));
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.to_string().contains(&*lock.to_string_lossy()), "{error}");
        assert!(!path.exists());
    };
    std::fs::create_dir(&lock).expect("made");
    refused("it is a directory");
    std::fs::remove_dir(&lock).expect("removed");
    std::os::unix::fs::symlink(&target, &lock).expect("made");
    refused("it is a symbolic link");
    assert!(!target.exists(), "the link was not followed");
    std::fs::remove_file(&lock).expect("removed");
    let socket = UnixListener::bind(&lock).expect("bound");
    refused("it is no plain file");
    drop(socket);
    std::fs::remove_file(&lock).expect("removed");
    // Unlike a socket it could be opened, and locked.
    let own = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &lock, FileType::Fifo, own, 0).expect("made");
    refused("it is no plain file");
}

#[test]
fn p9_a_lock_that_is_held_is_named() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let held = std::fs::File::create(scratch.path("s.lock")).expect("made");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    assert!(matches!(bind(&path), Err(BindError::Locked(at)) if at == scratch.path("s.lock")));
    drop(held);
    bind(&path).expect("bound");
}

/// The socket gets its permissions although somebody always has something at its path.
#[test]
fn p10_a_link_at_the_path_is_not_followed() {
    let scratch = Scratch::new();
    let victim = scratch.path("victim");
    std::fs::write(&victim, "precious").expect("written");
    victim_of_links(&scratch, &victim, |link| {
        let _ = std::os::unix::fs::symlink(&victim, link);
    });
}

/// A second name of another socket is not taken for the socket that was just made.
#[test]
fn p10_another_socket_at_the_path_is_left_alone() {
    let scratch = Scratch::new();
    let victim = scratch.path("victim");
    drop(UnixListener::bind(&victim).expect("bound"));
    victim_of_links(&scratch, &victim, |link| {
        let _ = std::fs::hard_link(&victim, link);
    });
}

/// Binds again and again while `make` has a link to the victim at the path.
fn victim_of_links(scratch: &Scratch, victim: &Path, make: impl Fn(&Path) + Sync) {
    let path = scratch.path("s");
    std::fs::set_permissions(victim, std::fs::Permissions::from_mode(0o600)).expect("set");
    let stop = crate::base::sync::PlainBool::new(false);
    let rounds = std::thread::scope(|scope| {
        scope.spawn(|| {
            let link = scratch.path("link");
            while !stop.load(crate::base::sync::Ordering::Relaxed) {
                make(&link);
                // Only what somebody has just made is replaced.
                if std::fs::symlink_metadata(&path).is_ok() {
                    let _ = std::fs::rename(&link, &path);
                }
            }
        });
        let options = ListenOptions { mode: 0o666, ..ListenOptions::default() };
        let mut replaced = 0;
        for _ in 0..2000 {
            match listen(&path, &options) {
                Ok(listener) => drop(listener),
                Err(BindError::PathReplaced(at)) if at == path => replaced += 1,
                Err(BindError::PathIsNotASocket(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let _ = std::fs::remove_file(&path);
        }
        stop.store(true, crate::base::sync::Ordering::Relaxed);
        replaced
    });
    let mode = std::fs::metadata(victim).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "of a file that a link pointed at, with {rounds} links in time");
}

/// Without a wider mode than the umask leaves, nothing is changed behind the bind.
#[test]
fn p10_a_socket_has_its_mode_from_the_start() {
    let scratch = Scratch::new();
    for mode in [0o600, 0o660, 0o666, 0o700] {
        let path = scratch.path(&format!("{mode:o}"));
        let options = ListenOptions { mode, ..ListenOptions::default() };
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).expect("a watch");
        let what = inotify::WatchFlags::ATTRIB;
        inotify::add_watch(&watch, path.parent().expect("a directory"), what).expect("watched");
        let _listener = listen(&path, &options).expect("bound");
        let found = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(found, mode);
        // Every umask leaves these of the user itself; who sets one that does not is not served.
        if mode & 0o077 == 0 {
            let changes = rustix::io::read(&watch, &mut [0; 512][..]);
            assert_eq!(changes, Err(rustix::io::Errno::AGAIN), "{mode:o} was set afterwards");
        }
    }
}
