//! Processes that a dead child's commands left behind: found, and killed before their orders are taken up again.
//!
//! As a subreaper, the parent becomes the parent of every descendant that has lost its own. Not all of them are ours to end: a
//! shell may have started a daemon, or a reader of our log, before it became orderd by `exec`; and to process 1 of a container
//! come the orphans of everybody there. Those are told apart by what was there before the first child, by process group and by
//! session. A fresh child looks for leftovers too, yet it finds only those that have kept their environment.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpgrp, getsid};

use crate::os::processes::{Process, children_of};

/// How long to wait for orphans to be gone after they were killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What tells orphans from others.
#[derive(Debug)]
pub struct Orphans {
    /// Our children before we started any.
    strangers: Vec<Process>,
    /// Their process groups, and ours. A child of ours has a group of its own, and so has each of its commands.
    groups: Vec<Pid>,
    /// The only session whose orphans are ours, if everybody's come to us.
    session: Option<Pid>,
}

impl Orphans {
    /// Becomes the parent of orphans. To be called before any child is started.
    pub fn adopt() -> Orphans {
        #[cfg(target_os = "linux")]
        let _ = nix::sys::prctl::set_child_subreaper(true);
        let strangers = children_of(Pid::this());
        let groups = strangers.iter().map(|process| process.group).chain([getpgrp()]).collect();
        let session = if Pid::this().as_raw() == 1 { getsid(None).ok() } else { None };
        Orphans { strangers, groups, session }
    }

    /// Kills every orphan of a child that has ended, and waits until they are gone. `living` are the children that have not.
    pub fn end(&self, living: &[Pid]) {
        let until = Instant::now() + PATIENCE;
        loop {
            let orphans: Vec<_> =
                children_of(Pid::this()).into_iter().filter(|p| !living.contains(&p.id) && self.is_ours(p)).collect();
            if orphans.is_empty() || Instant::now() > until {
                return;
            }
            for orphan in &orphans {
                let _ = kill(orphan.id, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(2));
            for orphan in &orphans {
                let _ = waitpid(orphan.id, Some(WaitPidFlag::WNOHANG));
            }
        }
    }

    fn is_ours(&self, process: &Process) -> bool {
        !self.strangers.contains(process)
            && !self.groups.contains(&process.group)
            && self.session.is_none_or(|session| process.session == session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_and_those_of_their_groups_are_not_ours() {
        let process = |id, group, session| {
            let [id, parent, group, session] = [id, 1, group, session].map(Pid::from_raw);
            Process { id, parent, group, session, started: 7 }
        };
        let mut orphans =
            Orphans { strangers: vec![process(5, 5, 9)], groups: vec![Pid::from_raw(5), Pid::from_raw(2)], session: None };
        assert!(!orphans.is_ours(&process(5, 5, 9)), "it was there before");
        assert!(!orphans.is_ours(&process(6, 5, 9)), "a stranger's child");
        assert!(!orphans.is_ours(&process(7, 2, 9)), "of the group of the shell that became orderd");
        assert!(orphans.is_ours(&process(8, 8, 8)));
        orphans.session = Some(Pid::from_raw(9));
        assert!(!orphans.is_ours(&process(8, 8, 8)), "of somebody else in the container");
        assert!(orphans.is_ours(&process(8, 8, 9)));
    }
}
