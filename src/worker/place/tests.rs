//! Places of workers: made, swept and removed.

use super::*;
use crate::base::sync::{Ordering, PlainBool};
use crate::handshake::tests::{Scratch, alone};
use std::os::unix::net::UnixListener;

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("it is there").count()
}

#[test]
fn w6_a_place_goes_with_what_is_in_it() {
    let scratch = Scratch::new();
    let directory = scratch.path("workers");
    std::fs::create_dir(&directory).expect("made");
    let mut place = SocketPlace::make(&directory, "api").expect("made");
    let _listener = place.listen().expect("it listens");
    let own = place.socket().parent().expect("a directory").to_owned();
    assert_eq!(std::fs::metadata(&own).expect("there").mode() & 0o777, 0o700);
    let again = OwnDirectory::lock(own.clone(), IfUnlockable::LeaveAlone);
    assert!(matches!(again, Ok(None)), "it is locked: {again:?}");
    sweep(&directory);
    assert!(place.socket().exists(), "it has an owner");
    std::fs::write(own.join("s.lock"), "").expect("a server was killed");
    place.leave();
    assert_eq!(entries(&directory), 0);
}

#[test]
fn w6_what_a_dead_host_left_is_swept() {
    let scratch = Scratch::new();
    let directory = scratch.path("workers");
    std::fs::create_dir(&directory).expect("made");
    let mut place = SocketPlace::make(&directory, "api").expect("made");
    drop(place.listen().expect("it listened"));
    // As if the process had ended: the lock goes, and the files stay.
    let SocketPlace { directory: own, _host, .. } = &place;
    rustix::fs::flock(&own.file, FlockOperation::Unlock).expect("unlocked");
    rustix::net::shutdown(_host, rustix::net::Shutdown::Both).expect("shut down");
    sweep(&directory);
    assert_eq!(entries(&directory), 0);
    std::mem::forget(place);
}

/// A sandbox of its host forbids `flock`, and none of the sweeper's does.
#[test]
fn w9_a_host_that_lives_and_has_no_lock_keeps_its_place() {
    let scratch = Scratch::new();
    let directory = scratch.path("workers");
    std::fs::create_dir(&directory).expect("made");
    let place = SocketPlace::make(&directory, "api").expect("made");
    rustix::fs::flock(&place.directory.file, FlockOperation::Unlock).expect("unlocked");
    sweep(&directory);
    assert!(host_socket(place.socket()).exists());
    place.leave();
    assert_eq!(entries(&directory), 0);
}

/// What a child of `vfork` ends is not its parent's.
#[test]
fn w6_only_the_end_of_its_own_process_removes_a_place() {
    let scratch = Scratch::new();
    let own = scratch.path("own");
    std::fs::create_dir(&own).expect("made");
    let mut list = Starting { places: vec![own.clone()], ..Starting::here() };
    list.process = Pid::from_raw(i32::MAX).expect("a number that none has");
    assert!(list.end(), "there is nothing to be done");
    assert!(own.exists() && !list.over);
    list.process = getpid();
    assert!(list.end());
    assert!(!own.exists() && list.over);
}

#[test]
fn w6_a_place_that_is_made_at_the_end_is_removed_by_its_maker() {
    let starting = Mutex::new(Starting::here());
    let making = Making::begin(&starting).expect("it goes on");
    // A directory that does not answer delays no other place.
    let other = Making::begin(&starting).expect("it goes on");
    assert!(other.end(Path::new("/no/such/place")));
    drop(other);
    assert!(!lock(&starting).end(), "one is being made");
    assert!(!making.end(Path::new("/no/such/place")), "its maker is told");
    drop(making);
    assert!(Making::begin(&starting).is_none());
    assert!(lock(&starting).end() && lock(&starting).places.is_empty());
}

/// Its worker makes files until the very moment of its host's end, and for a while after that.
#[test]
fn w6_a_place_goes_while_files_are_made_in_it() {
    let scratch = Scratch::new();
    for round in 0..200 {
        let own = scratch.path(&round.to_string());
        std::fs::create_dir(&own).expect("made");
        let file = own.join(SOCKET);
        std::fs::write(&file, "").expect("made");
        let (runs, over) = (std::sync::Barrier::new(2), PlainBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                runs.wait();
                let mut made = 0;
                // Relaxed: nothing else is passed on.
                while made < 8 && !over.load(Ordering::Relaxed) {
                    made += u32::from(std::fs::File::create_new(&file).is_ok());
                }
            });
            runs.wait();
            // As long as it takes the other thread to get going.
            while std::fs::remove_file(&file).is_ok() {}
            remove_in_use(&own);
            over.store(true, Ordering::Relaxed);
        });
        assert!(!own.exists(), "round {round}");
    }
}

/// Runs in a process of its own, whose umask it sets.
#[test]
fn h2_a_umask_that_takes_rights_of_the_user_leaves_nothing() {
    if !alone(module_path!(), "h2_a_umask_that_takes_rights_of_the_user_leaves_nothing") {
        return;
    }
    let scratch = Scratch::new();
    let directory = scratch.path("workers");
    std::fs::create_dir(&directory).expect("made");
    rustix::process::umask(Mode::from_raw_mode(0o277));
    let place = SocketPlace::make(&directory, "api").expect("made");
    let own = place.socket().parent().expect("a directory").to_owned();
    assert_eq!(std::fs::metadata(&own).expect("there").mode() & 0o777, 0o700);
    place.leave();
    assert_eq!(entries(&directory), 0);
}

#[test]
fn w9_what_is_foreign_is_left_alone() {
    let scratch = Scratch::new();
    let directory = scratch.path("workers");
    std::fs::create_dir(&directory).expect("made");
    // A stranger at the worker's own path.
    let place = SocketPlace::make(&directory, "api").expect("made");
    let stranger = place.socket().to_owned();
    let _stranger = UnixListener::bind(&stranger).expect("bound");
    drop(place);
    assert!(stranger.exists());
    // Names of the kind, which others gave.
    let name = |name: &str| directory.join(format!("{name}-abcdefgh2345.ring"));
    std::fs::write(name("file"), "x").expect("a file");
    std::os::unix::fs::symlink(&directory, name("link")).expect("a link");
    std::fs::create_dir(name("open")).expect("a directory for all");
    std::fs::create_dir(name("full")).expect("a directory with a file");
    std::fs::set_permissions(name("full"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("set");
    std::fs::write(name("full").join("data"), "x").expect("written");
    std::fs::create_dir(directory.join("abc.ring")).expect("another name");
    sweep(&directory);
    assert_eq!(entries(&directory), 6);
    assert!(name("full").join("data").exists() && stranger.exists());
}

/// Whoever opens what others own may wait for ever: it is not opened at all.
#[test]
fn w6_a_sweep_opens_nothing_of_another_user() {
    use rustix::fs::inotify;
    let scratch = Scratch::new();
    let directory = scratch.path("workers");
    std::fs::create_dir(&directory).expect("made");
    let name = |name: &str| directory.join(format!("{name}-abcdefgh2345.ring"));
    for made in ["ours", "theirs"] {
        std::fs::DirBuilder::new().mode(0o700).create(name(made)).expect("made");
    }
    if let Err(error) = std::os::unix::fs::chown(name("theirs"), Some(12345), None) {
        eprintln!("not run: no directory of another user: {error}");
        return;
    }
    let opened = |of: &str| {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let events = inotify::init(flags).expect("inotify");
        inotify::add_watch(&events, name(of), inotify::WatchFlags::OPEN).expect("watched");
        events
    };
    let (ours, theirs) = (opened("ours"), opened("theirs"));
    sweep(&directory);
    let mut bytes = [0; 256];
    assert!(rustix::io::read(&ours, &mut bytes).is_ok(), "this one was left behind");
    assert_eq!(rustix::io::read(&theirs, &mut bytes), Err(Errno::AGAIN), "a stranger's was opened");
    assert!(!name("ours").exists() && name("theirs").exists());
}

#[test]
fn w8_a_path_has_as_much_of_the_name_as_fits() {
    let long = "n".repeat(32);
    let name = |length: usize| fitting(Path::new(&"d".repeat(length)), &long).map(str::len);
    assert_eq!(name(20).ok(), Some(32));
    let most = (1..MAX_PATH).rev().find(|length| name(*length).is_ok()).expect("some fit");
    assert_eq!(name(most).ok(), Some(1));
    match name(most + 1) {
        Err(error @ WorkerError::PathTooLong { len, max, .. }) => {
            assert_eq!((len, max), (MAX_PATH + 1, MAX_PATH));
            assert!(error.is_permanent() && error.to_string().contains("ddd"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
