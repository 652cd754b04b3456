//! A program on a terminal that is none: what it draws is read back.

use ringbell_shm_tests::process::readable;
use ringbell_shm_tests::progress::tick;
use rustix::fd::OwnedFd;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fmt::Write;
use std::num::NonZero;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to draw what is awaited.
const PATIENCE: Duration = Duration::from_secs(30);

/// A terminal and the program on it.
pub(crate) struct Screen {
    master: OwnedFd,
    parser: vt100::Parser,
    child: Child,
}

impl Screen {
    /// Starts a program on a terminal of its own.
    pub(crate) fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let of = |size| NonZero::new(size).expect("a terminal has a size");
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).expect("sized");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let name = name.to_str().expect("ASCII").to_owned();
        let end = || {
            let file = std::fs::File::options().read(true).write(true).open(&name).expect("opened");
            Stdio::from(file)
        };
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm-256color");
        let child = command.spawn().expect("started");
        Self { master, parser: vt100::Parser::new(of(rows), of(columns), 0), child }
    }

    /// The process id of the program.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Takes in what was drawn within `limit`; whether there was something.
    fn read(&mut self, limit: Duration) -> bool {
        if !readable(&self.master, limit) {
            return false;
        }
        let mut bytes = [0; 4096];
        match rustix::io::read(&self.master, &mut bytes) {
            Ok(count) => {
                self.parser.process(&bytes[..count]);
                count != 0
            }
            // The program is gone.
            Err(_) => false,
        }
    }

    /// Throws away what was drawn so far.
    pub(crate) fn skip(&self) {
        let mut bytes = [0; 4096];
        while readable(&self.master, Duration::ZERO) {
            if !matches!(rustix::io::read(&self.master, &mut bytes), Ok(1..)) {
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
        let until = Instant::now() + PATIENCE;
        loop {
            while self.read(Duration::from_millis(20)) {}
            if condition(&self.text()) {
                tick();
                return;
            }
            assert!(Instant::now() < until, "waited in vain for {what}:\n{}", self.text());
        }
    }

    /// Presses keys.
    pub(crate) fn press(&self, keys: &[u8]) {
        rustix::io::write(&self.master, keys).expect("written");
    }

    /// Waits for the end of the program.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            self.read(Duration::from_millis(20));
            if let Some(status) = self.child.try_wait().expect("waited for") {
                return status;
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.text());
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
                    ("#101418", Some("#c8ccd0"))
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
                let text = text.replace('&', "&amp;").replace('<', "&lt;");
                let _ = writeln!(
                    out,
                    "<text x=\"{x}\" y=\"{}\" fill=\"{ink}\"{bold}>{text}</text>",
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
