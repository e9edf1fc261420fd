//! A PostgreSQL of the tests' own: started once for a test program from what Debian's package has, on a socket in a folder that nobody
//! else can enter, and ended with the program, by its process id, also when that is killed.
//!
//! Each test has a schema of its own in it. Where there is no PostgreSQL, that is said once, and such tests do nothing.
//!
//! orderd takes its locks in one order everywhere, so no deadlock may ever be in the server's log. Whoever removes a test's folder looks
//! for one, as [`assert_no_deadlock`] does, so that the last test of a run looks after all have done their work.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long it may take to start, or to be asked something.
const PATIENCE: Duration = Duration::from_secs(60);
/// As whom it runs when the tests are run by root, whom it refuses.
const NOBODY: u32 = 65_534;
/// With the code of each error.
const LOG_PREFIX: &str = "log_line_prefix=%m [%p] %e ";
/// For tests: nothing survives a power cut, and whoever waits for another says so soon.
const FOR_TESTS: [&str; 6] = [
    "fsync=off",
    "max_connections=200",
    "deadlock_timeout=50ms",
    "log_lock_waits=on",
    "shared_buffers=64MB",
    "autovacuum_naptime=5s",
];

/// A server of its own.
pub struct Cluster {
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
    /// Whether a test provokes deadlocks here.
    has_deadlocks: AtomicBool,
    /// Ends the server and removes its folder when the pipe to it is closed.
    guard: Child,
}

static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();

/// The one of this test program, if there can be one.
pub fn cluster() -> Option<&'static Cluster> {
    CLUSTER.get_or_init(Cluster::start).as_ref()
}

/// Fails if the server of this test program, where one was needed, has ever had to end a deadlock.
pub fn assert_no_deadlock() {
    CLUSTER.get().into_iter().flatten().for_each(Cluster::assert_no_deadlock);
}

impl Cluster {
    fn start() -> Option<Cluster> {
        let Some(bin) = programs() else {
            let _ = writeln!(std::io::stderr(), "skipped: no PostgreSQL is installed, so nothing was tried on one");
            return None;
        };
        Some(Cluster::in_folder(bin, std::env::temp_dir().join(format!("orderd-pg-{}", std::process::id())), &FOR_TESTS))
    }

    /// Another one, for what harms all that use it. Ended when it is dropped.
    pub fn another() -> Option<Cluster> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("orderd-pg-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Some(Cluster::in_folder(programs()?, std::env::temp_dir().join(name), &FOR_TESTS))
    }

    /// One with settings of one's own.
    #[allow(dead_code, reason = "the benchmarks, which share this file, need one that is fast and safe")]
    pub fn with(settings: &[&str]) -> Option<Cluster> {
        let name = format!("orderd-pg-{}", std::process::id());
        Some(Cluster::in_folder(programs()?, std::env::temp_dir().join(name), settings))
    }

    /// Makes one in `folder`, and starts it.
    fn in_folder(bin: PathBuf, folder: PathBuf, settings: &[&str]) -> Cluster {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        if is_root {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        // The port is part of the socket's name, and nothing listens on TCP unless a test says so.
        let port = 5_432;
        let mut initdb = as_nobody(Command::new(bin.join("initdb")), is_root);
        initdb.args(["-U", "orderd", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"]).arg(folder.join("data"));
        let made = initdb.current_dir(&folder).stdout(Stdio::null()).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let log = fs::File::create(folder.join("log")).unwrap();
        // The shell is the guard: it waits for the end of its input, which comes with ours.
        let script = "\"$@\" & server=$!; cat >/dev/null; kill -QUIT $server; wait $server; cd /; rm -rf \"$FOLDER\"";
        let mut guard = as_nobody(Command::new("sh"), is_root);
        guard.args(["-c", script, "sh"]).arg(bin.join("postgres")).arg("-D").arg(folder.join("data")).arg("-k").arg(&folder);
        let own = ["listen_addresses=", &format!("port={port}"), LOG_PREFIX];
        for setting in own.iter().chain(settings) {
            guard.arg("-c").arg(setting);
        }
        guard.env("FOLDER", &folder).current_dir(&folder).process_group(0);
        guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let cluster = Cluster { bin, folder, port, has_deadlocks: AtomicBool::new(false), guard: guard.spawn().unwrap() };
        let end = Instant::now() + PATIENCE;
        while cluster.try_sql("SELECT 1").is_err() {
            assert!(Instant::now() < end, "PostgreSQL does not start: {}", cluster.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        cluster
    }

    /// The process above all of its own.
    #[allow(dead_code, reason = "the benchmarks weigh it")]
    pub fn id(&self) -> u32 {
        self.guard.id()
    }

    /// A URL for a schema that nobody else uses, with these parameters besides.
    pub fn fresh_url(&self, parameters: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let schema = format!("it_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.url(&schema, parameters)
    }

    /// A URL for this schema.
    pub fn url(&self, schema: &str, parameters: &str) -> String {
        format!("postgres://orderd@/postgres?host={}&port={}&schema={schema}{parameters}", self.folder.display(), self.port)
    }

    /// Runs a statement as an administrator would, and gives what it prints: rows by lines, columns with `|` between.
    #[track_caller]
    #[allow(dead_code, reason = "the unit tests, which share this file, have no need of it")]
    pub fn sql(&self, text: &str) -> String {
        self.try_sql(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// The same where it may fail.
    pub fn try_sql(&self, text: &str) -> Result<String, String> {
        let output = self.psql().args(["-c", text]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_string();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// How many deadlocks it has had to end. From now on there may be some.
    #[allow(dead_code, reason = "those who provoke none share this file")]
    pub fn deadlocks(&self) -> usize {
        self.has_deadlocks.store(true, Ordering::Relaxed);
        self.log().lines().filter(|line| is_of_deadlock(line)).count()
    }

    fn assert_no_deadlock(&self) {
        if !self.has_deadlocks.load(Ordering::Relaxed) && !std::thread::panicking() {
            let log = self.log();
            assert!(!log.lines().any(is_of_deadlock), "two sessions have waited for each other:\n{log}");
        }
    }

    /// The program that an administrator would use, connected as one.
    pub fn psql(&self) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "orderd", "-d", "postgres", "-h"]);
        psql.arg(&self.folder).args(["-p", &self.port.to_string()]).env_remove("PGOPTIONS");
        psql
    }

    /// Stops all of its processes while `deed` is done.
    #[allow(dead_code, reason = "the unit tests, which share this file, harm none")]
    pub fn frozen<T>(&self, deed: impl FnOnce() -> T) -> T {
        struct Frozen(Vec<i32>);
        impl Drop for Frozen {
            fn drop(&mut self) {
                self.0.iter().for_each(|id| _ = kill(Pid::from_raw(*id), Signal::SIGCONT));
            }
        }
        let first: i32 =
            fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap().lines().next().unwrap().parse().unwrap();
        let mut frozen = Frozen(vec![first]);
        // First the one that would start others.
        kill(Pid::from_raw(first), Signal::SIGSTOP).unwrap();
        let others = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
        frozen.0.extend(others.split_whitespace().filter_map(|id| id.parse::<i32>().ok()));
        frozen.0[1..].iter().for_each(|id| _ = kill(Pid::from_raw(*id), Signal::SIGSTOP));
        deed()
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.assert_no_deadlock();
    }
}

fn is_of_deadlock(line: &str) -> bool {
    line.contains(" 40P01 ERROR: ")
}

fn as_nobody(mut command: Command, is_root: bool) -> Command {
    if is_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Where the newest of what Debian has installed is, or what is on the path.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let mut found: Vec<PathBuf> = versions.filter(|bin| has_all(bin)).collect();
    found.sort();
    found.pop().or_else(|| on_path.into_iter().find(|bin| has_all(bin)))
}

fn has_all(bin: &Path) -> bool {
    ["initdb", "postgres", "psql"].iter().all(|program| bin.join(program).is_file())
}
