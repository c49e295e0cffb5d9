//! A terminal: a program runs on one end, the test types and reads at the other.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcgetwinsize, tcsetwinsize};

use super::server::DEADLINE;

/// A program on a terminal of its own, 80 columns wide and 24 rows high. Dropping it kills the program and closes the terminal.
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// Kept open, so that the settings which the program leaves can be looked at.
    other_end: OwnedFd,
    screen: Arc<(Mutex<Vec<u8>>, Condvar)>,
    /// How much of the screen was waited for.
    seen: usize,
}

impl Terminal {
    /// Starts the program, as the leader of the terminal's session.
    pub fn run(command: &Command) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let other_end: OwnedFd = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap().into();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&keyboard, size).unwrap();
        // Makes the terminal that of the session, which needs a call between fork and exec.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        session.env_clear();
        for (name, value) in command.get_envs() {
            session.env(name, value.unwrap_or_default());
        }
        if let Some(folder) = command.get_current_dir() {
            session.current_dir(folder);
        }
        let end = || Stdio::from(other_end.try_clone().unwrap());
        let child = session.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid of util-linux");
        let screen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let keyboard = File::from(keyboard);
        let (mut reader, shared) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                shared.0.lock().unwrap().extend_from_slice(&buffer[..read]);
                shared.1.notify_all();
            }
        });
        Self { child, keyboard, other_end, screen, seen: 0 }
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Gives the terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keyboard, size).unwrap();
    }

    /// Waits until `text` is shown, after what was waited for before.
    ///
    /// # Panics
    /// If it is not within [`DEADLINE`], with all that was shown.
    pub fn shows(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        let mut screen = self.screen.0.lock().unwrap();
        loop {
            let new = &screen[self.seen..];
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.seen += at + text.len();
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited for {text:?}; all that came:\n{}", String::from_utf8_lossy(&screen));
            screen = self.screen.1.wait_timeout(screen, left).unwrap().0;
        }
    }

    /// Waits until what is on the screen now, as a person sees it, is `so`, and returns it.
    ///
    /// # Panics
    /// If it is not within [`DEADLINE`], with what is there.
    pub fn until(&self, what: &str, so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let picture = self.picture();
            if so(&picture) {
                return picture;
            }
            assert!(Instant::now() < deadline, "waited for {what}; the screen:\n{picture}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is on the screen now: its lines, without blanks at their ends. Programs that draw as ours do are understood, not more.
    pub fn picture(&self) -> String {
        let Winsize { ws_row, ws_col, .. } = tcgetwinsize(&self.keyboard).unwrap();
        let (rows, columns) = (usize::from(ws_row), usize::from(ws_col));
        let mut cells = vec![vec![' '; columns]; rows];
        let (mut row, mut column) = (0_usize, 0_usize);
        let text = self.screen();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '\u{1b}' if rest.peek() == Some(&'[') => {
                    rest.next();
                    let mut parameters = String::new();
                    let end = rest.by_ref().find(|c| {
                        let is_end = ('@'..='~').contains(c);
                        if !is_end {
                            parameters.push(*c);
                        }
                        is_end
                    });
                    let mut numbers = parameters.split(';').map(|number| number.parse::<usize>().unwrap_or(1).max(1));
                    match end {
                        Some('H') => {
                            row = numbers.next().unwrap_or(1) - 1;
                            column = numbers.next().unwrap_or(1) - 1;
                        }
                        Some('J') => cells.iter_mut().flatten().for_each(|cell| *cell = ' '),
                        _ => {}
                    }
                }
                '\r' => column = 0,
                '\n' => row += 1,
                c if !c.is_control() => {
                    if let Some(cell) = cells.get_mut(row).and_then(|line| line.get_mut(column)) {
                        *cell = c;
                    }
                    // Of what these tests show, East Asian text is what takes two places.
                    column += if ('\u{1100}'..'\u{2e80}').contains(&c) || c < '\u{1100}' { 1 } else { 2 };
                }
                _ => {}
            }
        }
        let lines = cells.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned() + "\n");
        lines.collect()
    }

    /// All that was shown so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.0.lock().unwrap()).into_owned()
    }

    /// Whether keys are echoed and lines edited by the terminal, as a shell leaves it; a program that draws turns it off.
    pub fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.other_end).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// The program's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// If it does not end within [`DEADLINE`].
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
