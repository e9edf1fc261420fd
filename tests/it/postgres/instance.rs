//! One of several instances of orderd on the same schema, what belongs to it, and the books that must be right in the end.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orderd::Address;

use crate::harness::{Cluster, Folder, Process, Serving, cluster, comes_true, orderd, signal};

/// Longer than anything takes here on a machine that is busy with other things.
pub const MINUTE: Duration = Duration::from_secs(60);

/// A URL of a fresh schema, if there is a PostgreSQL.
pub fn on_postgres(parameters: &str) -> Option<String> {
    Some(cluster()?.fresh_url(parameters))
}

/// The schema that a URL names.
pub fn schema_of(url: &str) -> &str {
    url.split(['?', '&']).find_map(|parameter| parameter.strip_prefix("schema=")).unwrap()
}

/// An instance. Its commands are killed with it when it is dropped.
pub struct Instance(Option<Process>);

impl Instance {
    pub fn start(folder: &Folder, url: &str, flags: &[&str]) -> Instance {
        let mut command = orderd(folder);
        command.args(["--listen", "127.0.0.1:0", "--db", url]).args(flags);
        Instance::spawn(command, folder, url)
    }

    pub fn spawn(mut command: Command, folder: &Folder, _url: &str) -> Instance {
        // A node's file is this instance's, and goes with its folder.
        command.env_remove("RUNTIME_DIRECTORY").env("XDG_RUNTIME_DIR", folder.path());
        Instance(Some(Process::spawn(command, folder)))
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        self.0.take().unwrap().stop();
    }

    /// Its processes and all that descend from them.
    pub fn all_processes(&self) -> Vec<u32> {
        let parents = parents();
        let mut family = vec![self.id()];
        let mut at = 0;
        while let Some(id) = family.get(at).copied() {
            family.extend(parents.iter().filter(|(_, parent)| **parent == id).map(|(child, _)| *child));
            at += 1;
        }
        family
    }

    /// Those of them that are commands.
    pub fn commands(&self) -> Vec<u32> {
        let is_ours = |id: &u32| {
            let name = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            name.windows(6).any(|word| word == b"orderd") && !name.starts_with(b"sh\0")
        };
        self.all_processes().into_iter().filter(|id| !is_ours(id)).collect()
    }

    /// What the end of its machine looks like.
    pub fn kill_all(mut self) {
        self.kill_family();
    }

    fn kill_family(&mut self) {
        if let Some(process) = self.0.as_ref() {
            let family = Instance::all_processes(self);
            // First that which would start others.
            signal(process.id(), "KILL");
            for id in family {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id as i32), nix::sys::signal::Signal::SIGKILL);
            }
        }
        if let Some(process) = self.0.take() {
            process.kill();
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.kill_family();
        }
    }
}

impl Deref for Instance {
    type Target = Process;

    fn deref(&self) -> &Process {
        self.0.as_ref().unwrap()
    }
}

impl Serving for Instance {
    fn address(&self) -> &Address {
        self.0.as_ref().unwrap().address()
    }

    fn db(&self) -> std::path::PathBuf {
        self.0.as_ref().unwrap().db()
    }
}

/// Ends those who go on until it is over.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The parent of each process.
fn parents() -> HashMap<u32, u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |id: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        Some((id, stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?))
    };
    all.filter_map(parent).collect()
}

/// What must hold after any misfortune: what was acknowledged is there once, all has ended, and the counts are exact.
#[track_caller]
pub fn assert_books(instances: &[&Instance], url: &str, acknowledged: &HashSet<String>) {
    assert_books_on(cluster().unwrap(), instances, url, acknowledged);
}

/// The same on another server.
#[track_caller]
pub fn assert_books_on(server: &Cluster, instances: &[&Instance], url: &str, acknowledged: &HashSet<String>) {
    let schema = schema_of(url);
    let unfinished = format!("SELECT count(*) FROM {schema}.orders WHERE status IN ('Pending', 'Processing')");
    let all_ended = comes_true(2 * MINUTE, || server.sql(&unfinished) == "0");
    let left = || {
        server
            .sql(&format!("SELECT order_id, status, attempts, owner FROM {schema}.orders WHERE status <> 'Completed' LIMIT 5"))
    };
    assert!(all_ended, "not ended: {}\n{}", left(), instances.iter().map(|instance| instance.stderr()).collect::<String>());
    let rows = server.sql(&format!("SELECT order_id FROM {schema}.orders"));
    let stored: HashSet<String> = rows.lines().map(str::to_string).collect();
    assert_eq!(stored.len(), rows.lines().count(), "an order is there twice");
    let missing: Vec<_> = acknowledged.difference(&stored).take(5).collect();
    assert!(missing.is_empty(), "acknowledged and not there: {missing:?}");
    let columns = ["pending", "processing", "completed", "failed", "cancelled"];
    let kept = columns.map(|column| format!("sum({column})")).join(", ");
    let counted = ["Pending", "Processing", "Completed", "Failed", "Cancelled"];
    let counted = counted.map(|status| format!("count(*) FILTER (WHERE status = '{status}')")).join(", ");
    assert_eq!(
        server.sql(&format!("SELECT {kept} FROM {schema}.counts")),
        server.sql(&format!("SELECT {counted} FROM {schema}.orders")),
        "the counts are not exact"
    );
}
