//! The guard: a third process, which ends the commands of an instance whose parent and children are gone without having ended them.
//!
//! On a file such commands harm nobody, as the next orderd ends them before it begins any. On a server other instances take the
//! orders over as soon as the lease has ended, and a command that runs on would work beside theirs. So where commands are run for orders on
//! a server the parent starts a guard. It hears of the parent's end as that of its standard input, and waits for the node's lock, which
//! the children hold too: once it has that, nobody of the old instance lives, and none that was started in its place. Whoever
//! was first to lock the node again ends the commands itself.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::{end_commands, own_program};
use crate::os::manager;
use crate::os::processes::GUARD_OF;

/// How long to wait for the children after the parent: the kernel kills them, and a disk that hangs may keep one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The guard, as the parent has it. Killed when it is dropped, as after an orderly end there is nothing to do.
#[derive(Debug)]
pub struct Guard {
    process: Child,
    node: PathBuf,
}

impl Guard {
    /// Starts one for the node that has this file.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(node: &Path) -> io::Result<Guard> {
        let mut command = Command::new(own_program()?);
        manager::forget(&mut command);
        command.arg0("orderd: guard").args(std::env::args_os().skip(1)).env(GUARD_OF, node);
        // What a terminal tells the whole group is not for it. The parent alone has the other end of its standard input.
        let process = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        Ok(Guard { process, node: node.to_path_buf() })
    }

    /// If it is this process that has ended: starts another.
    ///
    /// # Errors
    /// What the system says.
    pub fn replace(&mut self, ended: Pid) -> io::Result<()> {
        if Pid::from_raw(self.process.id() as i32) == ended {
            log::warn!(process = ended.as_raw(); "the guard of the commands has ended; another follows");
            *self = Guard::start(&self.node)?;
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The node that this process guards, if it is a guard.
pub fn node() -> Option<PathBuf> {
    std::env::var_os(GUARD_OF).map(PathBuf::from)
}

/// Waits for the end of the instance, and ends what it has left.
pub fn guard(node: &Path) {
    let _ = io::stdin().read_to_end(&mut Vec::new());
    let Ok(file) = File::open(node) else { return };
    let until = Instant::now() + PATIENCE;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if Instant::now() > until {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    end_commands(node);
}
