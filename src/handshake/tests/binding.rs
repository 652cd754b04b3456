//! The listener.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;

fn bind(path: &Path) -> Result<Listener, BindError> {
    listen(path, &ListenOptions::default())
}

#[test]
fn a_socket_is_made_and_removed_with_its_directory_private() {
    let scratch = Scratch::new();
    let path = scratch.path("run/s");
    let listener = bind(&path).expect("bound");
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
    assert!(matches!(bind(&scratch.path("a/b/s")), Err(BindError::ParentMissing(_))));
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
