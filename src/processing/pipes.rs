//! The three pipes of a command, served by one thread: its input is written, its output read, until all are closed.
//!
//! The thread is there before the command is, so a machine that has no room for it has not begun an attempt. Whoever waits for
//! the command says when enough was waited for: a process that has left the command's group may hold the pipes open for ever,
//! and is then left without a reader. Nothing here knows why a command ended, or what its output means (`output.rs`).

use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::output::{LastLine, Lines, Source};

/// How much a pipe that is ready to be written to takes without blocking, on every system (`PIPE_BUF`).
const PIPE_BYTES: usize = 4_096;

/// The thread, before and while it serves.
pub(super) struct Pipes {
    streams: Sender<Streams>,
    last_line: Receiver<LastLine>,
    /// Dropped to have the thread end.
    leash: PipeWriter,
}

/// What is to be written, and where.
struct Input {
    pipe: ChildStdin,
    bytes: Vec<u8>,
    written: usize,
}

impl Input {
    /// Writes what the pipe takes now. None once all is written, or the command has closed its input, which it is free to.
    fn feed(mut self) -> Option<Input> {
        let end = self.bytes.len().min(self.written + PIPE_BYTES);
        self.written += self.pipe.write(&self.bytes[self.written..end]).ok()?;
        (self.written < self.bytes.len()).then_some(self)
    }
}

/// Our ends.
struct Streams {
    input: Option<Input>,
    output: Option<ChildStdout>,
    errors: Option<ChildStderr>,
}

impl Pipes {
    /// Starts the thread. What it reads is logged as this order's.
    ///
    /// # Errors
    /// What the system says when it has no room.
    pub(super) fn new(source: Source) -> io::Result<Pipes> {
        let (end, leash) = pipe()?;
        let (streams, given) = channel::<Streams>();
        let (sender, last_line) = channel();
        let serve = move || {
            if let Ok(streams) = given.recv() {
                // Nobody listens any more if the process is ending.
                let _ = sender.send(streams.serve(&end, &source));
            }
        };
        std::thread::Builder::new().name("work-pipes".into()).spawn(serve)?;
        Ok(Pipes { streams, last_line, leash })
    }

    /// Begins to serve the pipes of a command, which may or may not read `input`.
    pub(super) fn serve(&self, child: &mut Child, input: Vec<u8>) {
        let input = child.stdin.take().map(|pipe| Input { pipe, bytes: input, written: 0 });
        let streams = Streams { input, output: child.stdout.take(), errors: child.stderr.take() };
        // The thread waits for them.
        let _ = self.streams.send(streams);
    }

    /// The last line of the command's standard error, once it has ended. Waits at most so long for the rest of its output.
    pub(super) fn last_line(self, at_most: Duration) -> LastLine {
        let Pipes { last_line, leash, .. } = self;
        let all = last_line.recv_timeout(at_most);
        drop(leash);
        all.or_else(|_| last_line.recv()).unwrap_or_default()
    }
}

impl Streams {
    fn serve(mut self, end: &PipeReader, source: &Source) -> LastLine {
        let (mut output, mut errors) = (Lines::new(source, "stdout"), Lines::new(source, "stderr"));
        while self.input.is_some() || self.output.is_some() || self.errors.is_some() {
            let Ok([is_over, takes, says, complains]) = self.wait(end) else { break };
            if is_over {
                break;
            }
            if takes {
                self.input = self.input.take().and_then(Input::feed);
            }
            if says {
                read(&mut self.output, &mut output);
            }
            if complains {
                read(&mut self.errors, &mut errors);
            }
        }
        output.end();
        errors.end()
    }

    /// Waits until at least one of these is ready, or closed: the end, the input, the output, the errors.
    fn wait(&self, end: &PipeReader) -> nix::Result<[bool; 4]> {
        let input = self.input.as_ref().map(|input| (input.pipe.as_fd(), PollFlags::POLLOUT));
        let output = self.output.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::POLLIN));
        let errors = self.errors.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::POLLIN));
        let all = [Some((end.as_fd(), PollFlags::POLLIN)), input, output, errors];
        let mut open: Vec<_> = all.iter().flatten().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
        while let Err(e) = poll(&mut open, PollTimeout::NONE) {
            if e != Errno::EINTR {
                return Err(e);
            }
        }
        let mut open = open.iter();
        Ok(all.map(|asked| asked.is_some() && open.next().is_some_and(|fd| fd.any().unwrap_or(true))))
    }
}

/// Reads what has come, and closes the pipe at its end.
fn read(pipe: &mut Option<impl Read>, lines: &mut Lines<'_>) {
    let mut buffer = [0; 8 << 10];
    match pipe.as_mut().map(|pipe| pipe.read(&mut buffer)) {
        Some(Ok(read @ 1..)) => lines.add(&buffer[..read]),
        Some(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
        _ => *pipe = None,
    }
}
