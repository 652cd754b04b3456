//! A program on a terminal that is none: what it draws is read back.

use ringbell_shm_tests::process::readable;
use ringbell_shm_tests::progress::tick;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use std::fmt::Write;
use std::num::NonZero;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to draw what is awaited.
const PATIENCE: Duration = Duration::from_secs(30);

/// A terminal and the program on it.
pub(crate) struct Screen {
    /// `None` once it is closed.
    master: Option<OwnedFd>,
    parser: vt100::Parser,
    child: Child,
    /// All that was written to it.
    raw: Vec<u8>,
    /// How it was before the program began.
    modes: Termios,
}

impl Screen {
    /// Starts a program on a terminal of its own.
    pub(crate) fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let of = |size| NonZero::new(size).expect("a terminal has a size");
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).expect("sized");
        let modes = tcgetattr(&master).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let name = name.to_str().expect("ASCII").to_owned();
        let end = || {
            let file = std::fs::File::options().read(true).write(true).open(&name).expect("opened");
            Stdio::from(file)
        };
        command.stdin(end()).stdout(end()).stderr(end());
        if !command.get_envs().any(|(name, _)| name == "TERM") {
            command.env("TERM", "xterm-256color");
        }
        let child = command.spawn().expect("started");
        let parser = vt100::Parser::new(of(rows), of(columns), 0);
        Self { master: Some(master), parser, child, raw: Vec::new(), modes }
    }

    fn master(&self) -> &OwnedFd {
        self.master.as_ref().expect("not closed yet")
    }

    /// The process id of the program.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Takes in what was drawn within `limit`; whether there was something.
    fn read(&mut self, limit: Duration) -> bool {
        let Some(master) = &self.master else {
            std::thread::sleep(limit);
            return false;
        };
        if !readable(master, limit) {
            return false;
        }
        let mut bytes = [0; 4096];
        match rustix::io::read(master, &mut bytes) {
            Ok(count) => {
                self.raw.extend(&bytes[..count]);
                self.parser.process(&bytes[..count]);
                count != 0
            }
            // The program is gone.
            Err(_) => {
                std::thread::sleep(limit);
                false
            }
        }
    }

    /// Throws away what was drawn so far.
    pub(crate) fn skip(&self) {
        let mut bytes = [0; 4096];
        while readable(self.master(), Duration::ZERO) {
            if !matches!(rustix::io::read(self.master(), &mut bytes), Ok(1..)) {
                break;
            }
        }
    }

    /// What is on the screen.
    pub(crate) fn text(&self) -> String {
        self.parser.screen().contents()
    }

    /// Waits until the screen shows something.
    pub(crate) fn wait_for(&mut self, what: &str, condition: impl Fn(&str) -> bool) {
        self.until(what, |screen| condition(&screen.text()));
    }

    /// Presses keys.
    pub(crate) fn press(&self, keys: &[u8]) {
        rustix::io::write(self.master(), keys).expect("written");
    }

    /// All that was written to the terminal, as it came.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Whether a word stands on the screen in inverse characters.
    pub(crate) fn is_inverse(&self, word: &str) -> bool {
        let screen = self.parser.screen();
        let (_, columns) = screen.size();
        screen.rows(0, columns.get()).enumerate().any(|(row, line)| {
            let Some((before, _)) = line.split_once(word) else { return false };
            let column = u16::try_from(before.chars().count()).expect("few");
            let cell = screen.cell(u16::try_from(row).expect("few"), column);
            cell.is_some_and(vt100::Cell::inverse)
        })
    }

    /// Another size, of which the program is told.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        let of = |size| NonZero::new(size).expect("a terminal has a size");
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        self.parser.screen_mut().set_size(of(rows), of(columns));
        rustix::termios::tcsetwinsize(self.master(), size).expect("sized");
        // The kernel tells only the session that the terminal belongs to.
        self.signal(Signal::WINCH);
    }

    /// Sends the program a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("it is there");
    }

    /// Closes the terminal, as when its window is closed.
    pub(crate) fn close(&mut self) {
        self.master = None;
    }

    /// Whether the terminal is as a shell wants it: lines, echo, the cursor, the first screen.
    pub(crate) fn is_clean(&self) -> bool {
        let modes = tcgetattr(self.master()).expect("a terminal");
        let screen = self.parser.screen();
        modes.local_modes == self.modes.local_modes
            && modes.output_modes == self.modes.output_modes
            && modes.input_modes == self.modes.input_modes
            && !screen.alternate_screen()
            && !screen.hide_cursor()
    }

    /// Whether a program has taken it over.
    pub(crate) fn is_taken(&self) -> bool {
        let modes = tcgetattr(self.master()).expect("a terminal");
        let screen = self.parser.screen();
        !modes.local_modes.contains(LocalModes::ICANON)
            && screen.alternate_screen()
            && screen.hide_cursor()
    }

    /// Takes in what is there until something is so.
    pub(crate) fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            // Some draw all the time.
            for _ in 0..64 {
                if !self.read(Duration::from_millis(20)) {
                    break;
                }
            }
            if condition(self) {
                tick();
                return;
            }
            assert!(Instant::now() < until, "waited in vain for {what}:\n{}", self.text());
        }
    }

    /// Waits for the end of the program.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            self.read(Duration::from_millis(20));
            if let Some(status) = self.child.try_wait().expect("waited for") {
                // What it wrote last.
                while self.read(Duration::ZERO) {}
                return status;
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.text());
        }
    }

    /// The same while nobody takes in what is written.
    pub(crate) fn end_unread(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("waited for") {
                while self.read(Duration::ZERO) {}
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A picture of the screen.
    pub(crate) fn svg(&self) -> String {
        const WIDE: u16 = 9;
        const HIGH: u16 = 18;
        let screen = self.parser.screen();
        let (rows, columns) = screen.size();
        let (rows, columns) = (rows.get(), columns.get());
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"monospace\" \
             font-size=\"15\">\n<rect width=\"100%\" height=\"100%\" fill=\"#101418\"/>\n",
            columns * WIDE,
            rows * HIGH + 6
        );
        for row in 0..rows {
            for column in 0..columns {
                let Some(cell) = screen.cell(row, column) else { continue };
                let text = cell.contents();
                if text.trim().is_empty() && !cell.inverse() {
                    continue;
                }
                let (x, y) = (column * WIDE, row * HIGH);
                let (ink, paper) = if cell.inverse() {
                    ("#101418", Some(colour(cell.fgcolor())))
                } else {
                    (colour(cell.fgcolor()), None)
                };
                if let Some(paper) = paper {
                    let _ = writeln!(
                        out,
                        "<rect x=\"{x}\" y=\"{}\" width=\"{WIDE}\" height=\"{HIGH}\" fill=\"{paper}\"/>",
                        y + 3
                    );
                }
                let bold = if cell.bold() { " font-weight=\"bold\"" } else { "" };
                let faint = if cell.dim() { " opacity=\"0.6\"" } else { "" };
                if text.trim().is_empty() {
                    continue;
                }
                let text = text.replace('&', "&amp;").replace('<', "&lt;");
                let _ = writeln!(
                    out,
                    "<text x=\"{x}\" y=\"{}\" fill=\"{ink}\"{bold}{faint}>{text}</text>",
                    y + HIGH - 1
                );
            }
        }
        out + "</svg>\n"
    }
}

fn colour(colour: vt100::Color) -> &'static str {
    match colour {
        vt100::Color::Idx(1 | 9) => "#ff6b68",
        vt100::Color::Idx(2 | 10) => "#7fd962",
        vt100::Color::Idx(3 | 11) => "#ffcf56",
        vt100::Color::Idx(6 | 14) => "#5ccfe6",
        vt100::Color::Idx(8) => "#707a84",
        _ => "#c8ccd0",
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
