//! A program on a terminal of its own, and what is to be seen there.

use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::num::NonZeroU16;
use std::os::fd::AsRawFd as _;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

use super::server::PATIENCE;

/// A process on a pseudo-terminal. Dropping it kills the process.
pub struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    emulator: Arc<Emulator>,
    /// Ends when all that the process wrote is in the emulator, and the process has ended.
    reader: Option<JoinHandle<()>>,
}

/// What the bytes of the process look like.
struct Emulator {
    parser: Mutex<vt100::Parser>,
    changed: Condvar,
}

impl Emulator {
    fn parser(&self) -> MutexGuard<'_, vt100::Parser> {
        self.parser.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, mut pty: &Pty) {
        let mut buffer = [0; 8192];
        // The end of a terminal is an error.
        while let Ok(length @ 1..) = pty.read(&mut buffer) {
            self.parser().process(&buffer[..length]);
            self.changed.notify_all();
        }
    }
}

impl Terminal {
    /// idalloc with these arguments and environment variables, on a terminal of this size.
    pub fn idalloc(args: &[&str], env: &[(&str, &str)], rows: u16, columns: u16) -> Terminal {
        let command =
            Command::new(crate::program::path()).env_remove("IDALLOC_DSN").env_remove("IDALLOC_ADMIN_TOKEN");
        Terminal::start(
            command.env("TERM", "xterm-256color").args(args).envs(env.iter().copied()),
            rows,
            columns,
        )
    }

    /// Any command.
    pub fn start(command: Command, rows: u16, columns: u16) -> Terminal {
        let (pty, pts) = open().expect("a terminal");
        pty.resize(Size::new(rows, columns)).expect("resize the terminal");
        let child = command.spawn(pts).expect("start the program");
        let emulator = Emulator {
            parser: Mutex::new(vt100::Parser::new(size(rows), size(columns), 0)),
            changed: Condvar::new(),
        };
        let (pty, emulator) = (Arc::new(pty), Arc::new(emulator));
        let reader = thread::spawn({
            let (pty, emulator) = (pty.clone(), emulator.clone());
            move || emulator.follow(&pty)
        });
        Terminal { pty, child, emulator, reader: Some(reader) }
    }

    /// Types, as an operator does.
    pub fn type_text(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("type");
    }

    /// Gives the terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.emulator.parser().screen_mut().set_size(size(rows), size(columns));
        self.pty.resize(Size::new(rows, columns)).expect("resize the terminal");
    }

    /// What is to be seen now.
    pub fn text(&self) -> String {
        self.emulator.parser().screen().contents()
    }

    /// Waits until what is to be seen is as wanted, and returns it as text.
    pub fn await_screen(&self, what: &str, is_wanted: impl Fn(&vt100::Screen) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut parser = self.emulator.parser();
        while !is_wanted(parser.screen()) {
            assert!(
                Instant::now() < deadline,
                "in vain: {what}; the screen is\n{}",
                parser.screen().contents()
            );
            let woken = self.emulator.changed.wait_timeout(parser, Duration::from_millis(100));
            parser = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        parser.screen().contents()
    }

    /// Waits until this text is to be seen.
    pub fn await_text(&self, text: &str) -> String {
        self.await_screen(text, |screen| screen.contents().contains(text))
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: `kill` touches no memory; the process is a child that was not waited for, so the pid is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "the signal is sent");
    }

    /// Waits for the end of the process, and of what it wrote.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                self.reader.take().map(JoinHandle::join).transpose().expect("the reader");
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; the screen is\n{}", self.text());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the terminal takes whole lines and shows what is typed, as shells leave it.
    pub fn is_cooked(&self) -> bool {
        let mut modes = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the descriptor is the terminal's, which is borrowed for longer than this, and a success means that
        // the modes are written.
        let modes = unsafe {
            assert_eq!(libc::tcgetattr(self.pty.as_raw_fd(), modes.as_mut_ptr()), 0, "the terminal's modes");
            modes.assume_init()
        };
        let cooked = libc::ICANON | libc::ECHO | libc::ISIG;
        modes.c_lflag & cooked == cooked
    }
}

fn size(cells: u16) -> NonZeroU16 {
    NonZeroU16::new(cells).expect("a terminal has rows and columns")
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
