//! A target on the screen: looked at again and again, with what changed in between.
//!
//! One thread has the terminal and never waits for anything but events: a key, a signal, room to
//! write, the end of a process, and a look that is done ([`eye`]).

mod app;
mod eye;
mod keys;
mod look;
mod screen;
mod table;
mod terminal;
mod text;

use crate::cli::Watch;
use crate::process::State;
use crate::source::Target;
use crate::{Failure, Healthy, Unattachable, Usage};
use app::{App, Next};
use eye::{Eye, Seen};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::style::force_color_output;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::{TerminalOptions, Viewport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use signal_hook::consts::SIGHUP;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use terminal::{Canvas, Signalled, Terminal};

/// Descriptors that are waited for before those of processes.
const OTHERS: usize = 3;
/// How long a lone escape character may be the beginning of a key.
const ESCAPE: Duration = Duration::from_millis(50);
/// How often what changes with time alone is drawn.
const TICK: Duration = Duration::from_millis(250);
/// Between two pictures at least.
const PICTURE: Duration = Duration::from_millis(20);
/// From the first look to the second, and from the end of a process to the next look.
const SOON: Duration = Duration::from_millis(100);

/// Watches until a key ends it.
pub(crate) fn run(asked: &Watch) -> Result<Healthy, Failure> {
    // Paths may be of others, and so may what errors say of them.
    let harmless = |why: Unattachable| Unattachable(text::plain(&why.0).into_owned());
    let target = Target::of(&asked.target).map_err(harmless)?;
    if !target.is_live() {
        return Err(Box::new(Usage("watch looks at what is alive: see show for files".into())));
    }
    let usage = |what: &str| -> Result<Healthy, Failure> {
        let show = format!("{what}: use `ring-dump show {}`", asked.target);
        Err(Box::new(Usage(text::plain(&show).into_owned())))
    };
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return usage("watch needs a terminal");
    }
    match std::env::var("TERM") {
        Ok(name) if !name.is_empty() && name != "dumb" => {}
        _ => return usage("watch needs a terminal that can move its cursor, and TERM names none"),
    }
    let colours = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let eye = Eye::open(target.clone(), asked.interval, asked.late.late)?;
    let mut app = App::new(target);
    eye.look()?;
    let first = eye.wait()?;
    app.seen(first.report.map_err(harmless)?);
    // What is left out is left out of the picture.
    force_color_output(true);
    let terminal = Terminal::take()?;
    let mut watch = Watching {
        ends: Vec::new(),
        next: Instant::now() + first.pause.min(SOON),
        bytes: Vec::new(),
        typed_at: Instant::now(),
        picture: None,
        colours,
        app,
        eye,
        terminal,
    };
    watch.follow_ends();
    watch.run()?;
    Ok(true)
}

type Picture = ratatui::Terminal<CrosstermBackend<Canvas>>;

/// A process whose end is awaited.
struct End {
    pidfd: OwnedFd,
    pid: u32,
    generation: Option<u64>,
}

struct Watching {
    app: App,
    eye: Eye,
    terminal: Terminal,
    ends: Vec<End>,
    /// When to look again.
    next: Instant,
    /// What was typed and is no whole key.
    bytes: Vec<u8>,
    typed_at: Instant,
    /// `None` if all is to be drawn anew.
    picture: Option<Picture>,
    colours: bool,
}

/// What has happened.
struct Events {
    typed: bool,
    room: bool,
    /// Places in `ends`.
    ended: Vec<usize>,
}

impl Watching {
    fn run(&mut self) -> Result<(), Failure> {
        let mut shown = Instant::now();
        let mut dirty = true;
        loop {
            if dirty && self.terminal.is_written() && shown <= Instant::now() {
                self.draw()?;
                dirty = false;
                shown = Instant::now() + PICTURE;
            }
            self.write()?;
            let events = self.wait(dirty.then_some(shown))?;
            match self.terminal.signalled() {
                Signalled::End(signal) => return Err(terminal::end_by(signal).into()),
                Signalled::Stop => {
                    self.terminal.stop()?;
                    self.picture = None;
                }
                Signalled::Redraw => self.again()?,
                Signalled::Nothing => {}
            }
            if self.keys(events.typed)? == Next::Quit {
                return Ok(());
            }
            self.ended(&events.ended);
            if let Some(seen) = self.eye.seen()? {
                self.took(seen);
            }
            let due = Instant::now() >= self.next;
            if due && !self.app.is_looking() && self.app.paused.is_none() {
                self.app.begins();
                self.eye.look()?;
            }
            dirty |= !events.room || self.picture.is_none();
        }
    }

    /// Takes the terminal over once more and draws everything anew.
    fn again(&mut self) -> io::Result<()> {
        self.picture = None;
        self.terminal.enter()
    }

    /// Waits for something to happen.
    fn wait(&self, shown: Option<Instant>) -> io::Result<Events> {
        let now = Instant::now();
        let mut until = now + Duration::from_secs(3600);
        if !self.app.is_looking() && self.app.paused.is_none() {
            until = until.min(self.next);
        }
        if self.app.is_timed() {
            until = until.min(now + TICK);
        }
        if !self.bytes.is_empty() {
            until = until.min(self.typed_at + ESCAPE);
        }
        let writing = !self.terminal.is_written();
        if let Some(shown) = shown.filter(|_| !writing) {
            until = until.min(shown);
        }
        let mut wanted = PollFlags::IN;
        if writing {
            wanted |= PollFlags::OUT;
        }
        let tty = self.terminal.tty()?;
        let (signals, eye) = (self.terminal.wakes(), self.eye.wakes());
        let mut all = vec![
            PollFd::from_borrowed_fd(tty, wanted),
            PollFd::from_borrowed_fd(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(eye, PollFlags::IN),
        ];
        all.extend(self.ends.iter().map(|end| PollFd::new(&end.pidfd, PollFlags::IN)));
        let limit = until.saturating_duration_since(now);
        let limit: Timespec = limit.try_into().map_err(io::Error::other)?;
        match poll(&mut all, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let tty = all[0].revents();
        let others = all[1..].iter().any(|fd| !fd.revents().is_empty());
        Ok(Events {
            typed: tty.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            room: tty == PollFlags::OUT && !others,
            ended: (0..self.ends.len())
                .filter(|at| all.get(OTHERS + at).is_some_and(|fd| !fd.revents().is_empty()))
                .collect(),
        })
    }

    /// Writes what there is room for; ends as by a hangup if the terminal is gone.
    fn write(&self) -> io::Result<()> {
        match self.terminal.write() {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Err(terminal::end_by(SIGHUP)),
            result => result,
        }
    }

    /// Does what was typed.
    fn keys(&mut self, typed: bool) -> io::Result<Next> {
        if typed {
            self.typed_at = Instant::now();
            match self.terminal.read()? {
                Some(bytes) => self.bytes.extend(bytes),
                None => return Err(terminal::end_by(SIGHUP)),
            }
        }
        let keys = keys::parse(&mut self.bytes, self.typed_at.elapsed() >= ESCAPE);
        for key in keys {
            match self.app.key(key) {
                Next::Go => {}
                Next::Redraw => self.again()?,
                Next::Quit => return Ok(Next::Quit),
            }
        }
        Ok(Next::Go)
    }

    /// Takes in a look.
    fn took(&mut self, seen: Seen) {
        self.next = Instant::now() + seen.pause;
        match seen.report {
            Ok(_) if self.app.paused.is_some() => self.app.left_out(),
            Ok(report) => {
                self.app.seen(report);
                self.follow_ends();
            }
            Err(why) => self.app.lost(why.to_string()),
        }
    }

    /// Tells of processes that have ended.
    fn ended(&mut self, places: &[usize]) {
        for at in places.iter().rev() {
            let end = self.ends.swap_remove(*at);
            self.app.died(end.generation, end.pid);
            // Another one may be there soon.
            self.next = Instant::now() + SOON;
        }
    }

    /// Awaits the ends of the servers that were seen, and of the target.
    fn follow_ends(&mut self) {
        let mut wanted: Vec<(u32, Option<u64>)> = Vec::new();
        for server in self.app.servers() {
            if matches!(server.state, State::Alive | State::Stopped | State::Traced) {
                wanted.push((server.peer.pid, Some(server.generation)));
            }
        }
        if let Target::Process(pid) = self.app.target
            && self.app.servers().is_empty()
        {
            wanted.push((pid, None));
        }
        self.ends.retain(|end| wanted.contains(&(end.pid, end.generation)));
        for (pid, generation) in wanted {
            let known = self.ends.iter().any(|end| (end.pid, end.generation) == (pid, generation));
            let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let Some(number) = number.filter(|_| !known) else { continue };
            // Without it the next look tells.
            if let Ok(pidfd) = pidfd_open(number, PidfdFlags::empty()) {
                self.ends.push(End { pidfd, pid, generation });
            }
        }
    }

    /// Draws a picture, which is then to be written.
    fn draw(&mut self) -> Result<(), Failure> {
        self.app.news();
        let (columns, rows) = self.terminal.size()?;
        let area = Rect::new(0, 0, columns, rows);
        if self.drawn_area() != Some(area) {
            let mut canvas = self.terminal.canvas();
            canvas.write_all(b"\x1b[0m\x1b[2J")?;
            let viewport = Viewport::Fixed(area);
            let backend = CrosstermBackend::new(canvas);
            let options = TerminalOptions { viewport };
            self.picture = Some(ratatui::Terminal::with_options(backend, options)?);
        }
        let Some(picture) = &mut self.picture else { return Ok(()) };
        let (app, colours) = (&self.app, self.colours);
        picture.draw(|frame| {
            screen::draw(app, frame);
            if !colours {
                for cell in &mut frame.buffer_mut().content {
                    cell.fg = Color::Reset;
                    cell.bg = Color::Reset;
                }
            }
        })?;
        Ok(())
    }

    fn drawn_area(&mut self) -> Option<Rect> {
        self.picture.as_mut().map(|picture| picture.get_frame().area())
    }
}
