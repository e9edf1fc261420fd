//! Processes that a dead child's commands left behind: found, and killed before their orders are taken up again.
//!
//! As a subreaper, the parent becomes the parent of every descendant that has lost its own. Not all of them are ours to end: a
//! shell may have started a daemon, or a reader of our log, before it became orderd by `exec`; and to process 1 of a container
//! come the orphans of everybody there. Ours carry the mark of the database's commands (`os/marks.rs`). A fresh child looks for
//! leftovers too, yet what has lost the mark is known only as long as its marked parent lives, so this comes first.

use std::path::Path;

use nix::unistd::Pid;

use crate::os::marks;
use crate::os::processes::all_processes;

/// What tells orphans from others.
#[derive(Debug, Default)]
pub struct Orphans {
    /// The database's name in the marks, once there is one.
    database: String,
}

impl Orphans {
    /// Becomes the parent of orphans. To be called before any child is started.
    pub fn adopt() -> Orphans {
        #[cfg(target_os = "linux")]
        let _ = nix::sys::prctl::set_child_subreaper(true);
        Orphans::default()
    }

    /// Remembers which file the database is: it may be moved later.
    pub fn learn(&mut self, database: &Path) {
        self.database = marks::name_of(database);
    }

    /// Kills every orphan of a child that has ended, and waits until they are gone. What a command under way of one of the
    /// `living` has set free is in that command's group, and is spared.
    pub fn end(&mut self, database: &Path, living: &[Pid]) {
        if self.database.is_empty() {
            self.learn(database);
        }
        let under_way = all_processes().into_iter().filter(|process| living.contains(&process.parent));
        let spared: Vec<Pid> = under_way.map(|process| process.group).collect();
        let found = marks::end_all(|process| {
            process.parent == Pid::this() && !spared.contains(&process.group) && marks::is_of(process, &self.database)
        });
        tell(found);
    }
}

/// Kills all commands of the database at `path`, as the process that runs them is about to end.
pub fn end_commands(path: &Path) {
    let database = marks::name_of(path);
    tell(marks::end_all(|process| marks::is_of(process, &database)));
}

fn tell((found, left): (usize, usize)) {
    if found > 0 {
        log::warn!(found, ended = found - left; "processes that commands had left running are ended");
    }
}
