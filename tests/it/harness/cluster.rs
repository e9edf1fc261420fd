//! A PostgreSQL of the tests' own: started once for a test program from what Debian's package has, on a socket in a folder that nobody
//! else can enter, and ended with the program, by its process id, also when that is killed.
//!
//! Each test has a schema of its own in it. What harms all that use a server has another one, which can be stopped, frozen, put on a
//! small disk or followed by a standby. Where there is no PostgreSQL, that is said once, and such tests do nothing.
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
/// The port is part of the socket's name, and nothing listens on TCP unless a test says so.
const PORT: u16 = 5_432;

/// What each has in its configuration. The log has the code of each error.
const SETTINGS: [&str; 2] = ["listen_addresses=''", "log_line_prefix='%m [%p] %e '"];
/// For tests: nothing survives a power cut, and whoever waits for another says so soon.
const FOR_TESTS: [&str; 7] = [
    "fsync=off",
    "max_connections=200",
    "deadlock_timeout=50ms",
    "log_lock_waits=on",
    "shared_buffers=64MB",
    "autovacuum_naptime=5s",
    "wal_keep_size=64MB",
];

/// A server of its own.
pub struct Cluster {
    bin: PathBuf,
    folder: PathBuf,
    data: PathBuf,
    port: u16,
    /// Whether a test provokes deadlocks here.
    has_deadlocks: AtomicBool,
    /// Ends the server and removes its folder when the pipe to it is closed.
    guard: Option<Child>,
}

/// How a server differs from others.
#[derive(Default)]
pub struct Kind<'a> {
    /// Lines of its configuration, which go before those that all have.
    pub settings: &'a [&'a str],
    /// The port, if it is another.
    pub port: Option<u16>,
    /// Where its data and its log of changes lie, if not in its own folder: empty folders.
    pub data: Option<&'a Path>,
    pub log: Option<&'a Path>,
    /// Whose standby it is.
    pub of: Option<&'a Cluster>,
}

static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();

/// Fails if the server of this test program, where one was needed, has ever had to end a deadlock.
pub fn assert_no_deadlock() {
    CLUSTER.get().into_iter().flatten().for_each(Cluster::assert_no_deadlock);
}

/// The one of this test program, if there can be one.
pub fn cluster() -> Option<&'static Cluster> {
    let start = || {
        if programs().is_none() {
            let _ = writeln!(std::io::stderr(), "skipped: no PostgreSQL is installed, so nothing was tried on one");
        }
        Cluster::another()
    };
    CLUSTER.get_or_init(start).as_ref()
}

impl Cluster {
    /// Another one, for what harms all that use it. Ended when it is dropped.
    pub fn another() -> Option<Cluster> {
        Cluster::of(&Kind::default())
    }

    /// The same, of a kind.
    pub fn of(kind: &Kind<'_>) -> Option<Cluster> {
        Cluster::made(kind, &FOR_TESTS)
    }

    /// One with settings of one's own in place of those for tests.
    pub fn with(settings: &[&str]) -> Option<Cluster> {
        Cluster::made(&Kind::default(), settings)
    }

    fn made(kind: &Kind<'_>, settings: &[&str]) -> Option<Cluster> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("orderd-pg-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let data = kind.data.map_or_else(|| folder.join("data"), Path::to_path_buf);
        let port = kind.port.unwrap_or(PORT);
        let mut cluster = Cluster { bin: programs()?, folder, data, port, has_deadlocks: AtomicBool::new(false), guard: None };
        for folder in [Some(cluster.folder.as_path()), kind.data, kind.log].into_iter().flatten() {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
            cluster.give(folder);
        }
        match kind.of {
            None => cluster.make(kind.log),
            Some(primary) => cluster.copy(primary),
        }
        let configuration = cluster.data.join("postgresql.conf");
        let socket = format!("unix_socket_directories='{}'", cluster.folder.display());
        let port = format!("port={}", cluster.port);
        let mut lines = fs::read_to_string(&configuration).unwrap();
        for line in SETTINGS.iter().chain(settings).chain(kind.settings).chain([&socket.as_str(), &port.as_str()]) {
            lines += &format!("{line}\n");
        }
        fs::write(&configuration, lines).unwrap();
        cluster.run();
        Some(cluster)
    }

    fn make(&self, log: Option<&Path>) {
        let mut initdb = self.program("initdb");
        initdb.args(["-U", "orderd", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"]).arg(&self.data);
        if let Some(log) = log {
            initdb.args(["--wal-segsize=1", "-X"]).arg(log);
        }
        done(initdb);
    }

    /// A copy that follows a server.
    fn copy(&self, primary: &Cluster) {
        let mut backup = self.program("pg_basebackup");
        backup.args(["-U", "orderd", "-R", "-c", "fast", "--no-sync", "-h"]).arg(&primary.folder);
        backup.args(["-p", &primary.port.to_string(), "-D"]).arg(&self.data);
        done(backup);
    }

    fn run(&mut self) {
        let log = fs::File::create(self.folder.join("log")).unwrap();
        self.give(&self.folder.join("log"));
        // The shell is the guard: it waits for the end of its input, which comes with ours. Whatever has been stopped has to go on to
        // end, and the server may have been started anew.
        let script = "\"$@\" & cat >/dev/null
            if read -r server <\"$DATA/postmaster.pid\"; then
              kill -QUIT $server; kill -CONT $server $(cat /proc/$server/task/$server/children)
              while kill -0 $server; do sleep 0.01; done
            fi 2>/dev/null
            cd /; rm -rf \"$FOLDER\"";
        let mut guard = self.as_its_user(Command::new("sh"));
        guard.args(["-c", script, "sh"]).arg(self.bin.join("postgres")).arg("-D").arg(&self.data);
        guard.env("FOLDER", &self.folder).env("DATA", &self.data).current_dir(&self.folder).process_group(0);
        guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.guard = Some(guard.spawn().unwrap());
        self.is_up();
    }

    /// The process above all of its own.
    pub fn id(&self) -> u32 {
        self.guard.as_ref().map_or(0, Child::id)
    }

    /// Waits until it answers.
    #[track_caller]
    pub fn is_up(&self) {
        let end = Instant::now() + PATIENCE;
        while self.try_sql("SELECT 1").is_err() {
            assert!(Instant::now() < end, "PostgreSQL does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it: `fast`, which ends all sessions, or `immediate`, which is a crash.
    #[track_caller]
    pub fn stop(&self, how: &str) {
        done(self.control(&["stop", "-m", how]));
    }

    /// Starts it again.
    #[track_caller]
    pub fn start(&self) {
        let log = self.folder.join("log");
        done(self.control(&["start", "-l", log.to_str().unwrap()]));
    }

    /// Has a standby take writes.
    #[track_caller]
    pub fn promote(&self) {
        done(self.control(&["promote"]));
    }

    fn control(&self, arguments: &[&str]) -> Command {
        let mut control = self.program("pg_ctl");
        control.args(["-w", "-t", "60", "-D"]).arg(&self.data).args(arguments);
        control
    }

    /// A file that it must be able to read alone.
    pub fn give(&self, path: &Path) {
        if is_root() {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    /// Where its configuration lies.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Stops all of its processes while `deed` is done.
    pub fn frozen<T>(&self, deed: impl FnOnce() -> T) -> T {
        let mut frozen = Frozen(Vec::new());
        // First the one that would start others.
        frozen.add(self.first_process());
        self.processes().into_iter().for_each(|id| frozen.add(id));
        deed()
    }

    /// Lets nobody in while `deed` is done, also though connections can be made, and ends all sessions that orderd has.
    pub fn deaf<T>(&self, deed: impl FnOnce() -> T) -> T {
        let mut frozen = Frozen(Vec::new());
        frozen.add(self.first_process());
        for id in self.processes() {
            let name = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
            if name.starts_with("postgres: orderd ") {
                let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            }
        }
        deed()
    }

    /// Whether it ends by itself.
    pub fn has_ended(&self) -> bool {
        let end = Instant::now() + PATIENCE;
        let is_there = || fs::exists(self.data.join("postmaster.pid")).unwrap();
        while is_there() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        !is_there()
    }

    fn first_process(&self) -> i32 {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    fn processes(&self) -> Vec<i32> {
        let first = self.first_process();
        let text = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
        text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
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

    /// The folder that its socket lies in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a statement as an administrator would, and gives what it prints: rows by lines, columns with `|` between.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        self.try_sql(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// The same where it may fail.
    pub fn try_sql(&self, text: &str) -> Result<String, String> {
        let output = self.psql().args(["-c", text]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_string();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The program that an administrator would use, connected as one.
    pub fn psql(&self) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "orderd", "-d", "postgres", "-h"]);
        psql.arg(&self.folder).args(["-p", &self.port.to_string()]).env_remove("PGOPTIONS").env("PGCONNECT_TIMEOUT", "10");
        psql
    }

    /// How many deadlocks it has had to end. From now on there may be some.
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

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// One of PostgreSQL's programs, as the server's user.
    fn program(&self, name: &str) -> Command {
        let mut command = self.as_its_user(Command::new(self.bin.join(name)));
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn as_its_user(&self, mut command: Command) -> Command {
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let log = self.log();
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
        let is_bad = !self.has_deadlocks.load(Ordering::Relaxed) && log.lines().any(is_of_deadlock);
        assert!(!is_bad || std::thread::panicking(), "two sessions have waited for each other:\n{log}");
    }
}

fn is_of_deadlock(line: &str) -> bool {
    line.contains(" 40P01 ERROR: ")
}

/// Processes that are stopped until this is dropped.
struct Frozen(Vec<i32>);

impl Frozen {
    fn add(&mut self, id: i32) {
        let _ = kill(Pid::from_raw(id), Signal::SIGSTOP);
        self.0.push(id);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|id| _ = kill(Pid::from_raw(*id), Signal::SIGCONT));
    }
}

/// Runs it to its end, which must be a good one. Not through a pipe, which what it starts would keep open.
#[track_caller]
fn done(mut command: Command) {
    let file = std::env::temp_dir().join(format!("orderd-pg-said-{:?}-{}", std::thread::current().id(), std::process::id()));
    let said = fs::File::create(&file).unwrap();
    command.stdout(said.try_clone().unwrap()).stderr(said);
    let ended = command.status().unwrap();
    let said = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(&file);
    assert!(ended.success(), "{command:?}: {said}");
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
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
    ["initdb", "postgres", "psql", "pg_ctl", "pg_basebackup"].iter().all(|program| bin.join(program).is_file())
}
