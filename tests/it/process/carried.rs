//! What is carried to another machine: the static binary in an empty folder that is its whole world, and the Debian package.
//!
//! Both are built by `.ci/run`, which names them: `TEST_STATIC` and `TEST_DEB`. Where they are not built, or nobody may change
//! the root of a process, a test says so and passes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Folder, Process, Serving, created, in_clean_environment, order};

/// What `.ci/run` has built, by the variable that names it.
fn built(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        eprintln!("not tried: {variable} names nothing; .ci/run builds it");
    }
    path
}

/// Whether this user may change the root of a process, as only root may.
fn may_change_root() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--mount", "chroot", "/", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let may = command.status().is_ok_and(|status| status.success());
    if !may {
        eprintln!("not tried: this user may not change the root of a process");
    }
    may
}

/// The words of the entry point in `deploy/Containerfile`.
fn entry_point() -> Vec<String> {
    let recipe = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/Containerfile")).unwrap();
    let line = recipe.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).unwrap();
    serde_json::from_str(line).unwrap()
}

/// A folder with nothing in it but the binary and a folder for its data.
fn world(binary: &Path) -> Folder {
    let folder = Folder::new();
    fs::copy(binary, folder.file("orderd")).unwrap();
    fs::create_dir(folder.file("data")).unwrap();
    folder
}

#[test]
fn a_static_binary_serves_in_an_empty_folder_with_and_without_proc() {
    let Some(binary) = built("TEST_STATIC") else { return };
    if !may_change_root() {
        return;
    }
    for has_proc in [false, true] {
        let folder = world(&binary);
        let mut words = entry_point();
        // On a free port, which only this machine sees.
        words.iter_mut().for_each(|word| *word = word.replace("0.0.0.0:8000", "127.0.0.1:0"));
        let mut script = "exec chroot . \"$@\"".to_string();
        if has_proc {
            fs::create_dir(folder.file("proc")).unwrap();
            script.insert_str(0, "mount -t proc proc proc && ");
        }
        let mut command = in_clean_environment(Command::new("unshare"), &folder);
        command.args(["--mount", "sh", "-c", &script, "sh"]).args(words).args(["--processing-time", "0s"]);
        let server = Process::spawn(command, &folder);
        server.post(order("1")).expect(200, &created("1"));
        server.wait_until_completed(1);
        let says = server.stderr();
        assert_eq!(says.contains("without a supervisor"), !has_proc, "{says}");
        server.stop();
        assert!(folder.file("data/orders.db").exists(), "{:?}", folder.names());
        let others: Vec<_> = folder.names().into_iter().filter(|name| !["orderd", "data", "proc"].contains(&&**name)).collect();
        assert_eq!(others, [""; 0], "it leaves nothing beside its data");
    }
}

#[test]
fn the_debian_package_is_installed_runs_and_is_removed() {
    let Some(package) = built("TEST_DEB") else { return };
    if !may_change_root() {
        return;
    }
    let folder = Folder::new();
    let root = folder.file("root");
    for needed in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
        fs::create_dir_all(root.join(needed)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    // Into a root of its own, whose dependencies are this machine's.
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", root.display())).args([
            "--force-depends",
            "--force-script-chrootless",
            "--force-not-root",
        ]);
        command.args(arguments).stdin(Stdio::null()).output()
    };
    let installed = match dpkg(&["--install", package.to_str().unwrap()]) {
        Ok(output) => output,
        Err(e) => return eprintln!("not tried: dpkg: {e}"),
    };
    assert!(installed.status.success(), "{installed:?}");
    let binary = root.join("usr/bin/orderd");
    assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o777, 0o755);
    let version = Command::new(&binary).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("orderd {}\n", env!("CARGO_PKG_VERSION")));
    let unit = ["lib", "usr/lib"].map(|lib| root.join(lib).join("systemd/system/orderd.service"));
    let unit = unit.iter().find_map(|path| fs::read_to_string(path).ok()).expect("the unit is installed");
    assert!(unit.contains("ExecStart=orderd "), "systemd looks for it where a package or a person may put it: {unit}");
    assert!(root.join("usr/share/doc/orderd/copyright").exists());
    let removed = dpkg(&["--purge", "orderd"]).unwrap();
    assert!(removed.status.success() && !binary.exists(), "{removed:?}");
}
