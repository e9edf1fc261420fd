//! The token of the binary: files that hold one, when they are read, who is told of it and who is not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use crate::harness::{
    Ended, Folder, PATIENCE, Process, Serving, Worker, asking, comes_true, created, get, order, orderd, poll_until, post, with,
};

const TOKEN: &str = "0123456789abcdef";
const NEXT: &str = "fedcba9876543210";

fn put(folder: &Folder, name: &str, text: &str, mode: u32) {
    // One that nobody may write to can still be replaced.
    let _ = fs::remove_file(folder.file(name));
    fs::write(folder.file(name), text).unwrap();
    fs::set_permissions(folder.file(name), Permissions::from_mode(mode)).unwrap();
}

fn status_with(server: &Process, token: &str) -> u16 {
    server.ask(with(get("/metrics"), &format!("Authorization: Bearer {token}"))).status
}

#[test]
fn a_token_file_that_is_no_secret_is_refused_with_the_remedy() {
    let folder = Folder::new();
    let long = "a".repeat(513);
    for (name, text, mode, words) in [
        ("empty", "", 0o600, &["is empty", "base64 > empty"][..]),
        ("newline", "\n", 0o600, &["is empty", "base64"]),
        ("short", "0123456789abcde\n", 0o600, &["fewer than 16", "base64"]),
        ("long", &long, 0o600, &["more than 512", "base64"]),
        ("two", "0123456789abcdef\n0123456789abcdef\n", 0o600, &["letters, digits", "base64"]),
        ("spaces", "0123456789 abcdef", 0o600, &["letters, digits"]),
        ("group", TOKEN, 0o640, &["open to others", "640", "chmod 600 group"]),
        ("others", TOKEN, 0o604, &["open to others", "604", "chmod 600 others"]),
        ("written", TOKEN, 0o602, &["open to others", "chmod 600 written"]),
    ] {
        put(&folder, name, text, mode);
        for args in [&["--token-file", name][..], &["list", "--token-file", name], &["--no-supervisor", "--token-file", name]] {
            let mut command = orderd(&folder);
            command.args(args).env("ORDERD_LISTEN", "127.0.0.1:0");
            Ended::of(command).expect_refused(&[&[name][..], words].concat());
        }
        fs::remove_file(folder.file(name)).unwrap();
    }
    fs::write(folder.file("binary"), [0xff; 20]).unwrap();
    fs::set_permissions(folder.file("binary"), Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(folder.file("folder")).unwrap();
    symlink("/dev/zero", folder.file("device")).unwrap();
    for (name, words) in [
        ("missing", &["does not exist", "base64 > missing"][..]),
        ("binary", &["letters, digits"]),
        ("folder", &["no plain file"]),
        ("device", &["no plain file"]),
        ("", &["name a file"]),
    ] {
        let mut command = orderd(&folder);
        command.env("ORDERD_TOKEN_FILE", name).args(["--listen", "127.0.0.1:0"]);
        Ended::of(command).expect_refused(words);
    }
    assert_eq!(folder.names(), ["binary", "device", "folder"], "nothing is made");
}

/// What is said above works as it is typed.
#[test]
fn the_remedy_makes_a_token_that_is_taken() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0", "--token-file", "token"]);
    let said = Ended::of(command).stderr;
    let (_, remedy) = said.trim().split_once("make one with: ").unwrap();
    assert!(Command::new("sh").args(["-c", remedy]).current_dir(folder.path()).status().unwrap().success(), "{remedy}");
    let server = Process::start(&folder, &["--token-file", "token"]);
    assert_eq!(status_with(&server, fs::read_to_string(folder.file("token")).unwrap().trim_end()), 200);
    server.stop();
}

#[test]
fn a_renewal_takes_up_a_new_token() {
    let folder = Folder::new();
    put(&folder, "token", &format!("{TOKEN}\r\n"), 0o600);
    let server = Process::start(&folder, &["--token-file", "token"]);
    assert_eq!((status_with(&server, TOKEN), status_with(&server, NEXT)), (200, 401));
    put(&folder, "token", NEXT, 0o400);
    assert_eq!(status_with(&server, TOKEN), 200, "until then the old one is good");
    server.signal("USR1");
    poll_until(PATIENCE, || status_with(&server, NEXT) == 200);
    // The process before may still answer for a moment.
    poll_until(PATIENCE, || status_with(&server, TOKEN) == 401);

    // With a file that is no good a renewal changes nothing.
    poll_until(PATIENCE, || Worker::all_of(&server) == 1);
    put(&folder, "token", "", 0o600);
    server.signal("USR1");
    poll_until(PATIENCE, || server.stderr().contains("is empty"));
    assert_eq!(status_with(&server, NEXT), 200);
    server.stop();
}

#[test]
fn subcommands_bear_the_token_of_a_file_or_of_the_environment() {
    let folder = Folder::new();
    put(&folder, "token", TOKEN, 0o600);
    put(&folder, "wrong", NEXT, 0o600);
    let server = Process::start(&folder, &["--token-file", "token", "--concurrency", "0"]);
    server.ask(with(post(order("1")), &format!("Authorization: Bearer {TOKEN}"))).expect(200, &created("1"));
    let run = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = asking(&folder, &server, args);
        command.envs(variables.iter().copied());
        Ended::of(command)
    };
    let show = ["show", "1", "--json"];
    let shown = run(&[&show[..], &["--token-file", "token"]].concat(), &[]);
    assert!(shown.code == Some(0) && shown.stdout.contains("\"order_id\":\"1\""), "{shown:?}");
    for variables in [
        &[("ORDERD_TOKEN", TOKEN)][..],
        &[("ORDERD_TOKEN_FILE", "token")],
        &[("ORDERD_TOKEN", TOKEN), ("ORDERD_TOKEN_FILE", "wrong")],
    ] {
        run(&show, variables).expect_done(&shown.stdout);
    }
    // The flag wins.
    run(&[&show[..], &["--token-file", "token"]].concat(), &[("ORDERD_TOKEN", NEXT)]).expect_done(&shown.stdout);
    for args in [&show[..], &["list"], &["retry", "1"], &["retry", "--failed"], &["cancel", "1"]] {
        for variables in [&[][..], &[("ORDERD_TOKEN", NEXT)]] {
            run(args, variables).expect_failed(&["asks for its token", "--token-file", "ORDERD_TOKEN"]);
        }
    }
    let from_flags = ["create", "--id", "2", "--user", "u", "--item", "i", "--amount", "1"];
    run(&from_flags, &[]).expect_failed(&["asks for its token"]);
    run(&from_flags, &[("ORDERD_TOKEN", TOKEN)]).expect_done("2 is created\n");
    run(&show, &[("ORDERD_TOKEN", "short")]).expect_refused(&["ORDERD_TOKEN", "fewer than 16"]);
    run(&["healthcheck"], &[]).expect_done("ok\n");
    server.stop();
}

#[test]
fn commands_are_not_given_the_token() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0", "--exec", "env > environment.new; mv environment.new environment"]);
    command.env("ORDERD_TOKEN", TOKEN).env("KEPT", "yes");
    let server = Process::spawn(command, &folder);
    // Of the server nothing is asked: the variable is for subcommands.
    server.post(order("1")).expect(200, &created("1"));
    poll_until(PATIENCE, || folder.file("environment").exists());
    let environment = fs::read_to_string(folder.file("environment")).unwrap();
    assert!(environment.contains("KEPT=yes") && !environment.contains(TOKEN), "{environment}");
    assert!(!server.stderr().contains("ORDERD_TOKEN"), "it is no unknown variable: {}", server.stderr());
    server.stop();
}

#[test]
fn an_address_beyond_this_machine_without_a_token_is_warned_of() {
    let warning = "ask for a token with --token-file";
    for (listen, token, warns) in [("0.0.0.0:0", false, true), ("0.0.0.0:0", true, false), ("127.0.0.1:0", false, false)] {
        let folder = Folder::new();
        put(&folder, "token", TOKEN, 0o600);
        let mut command = orderd(&folder);
        command.args(["--listen", listen, "--concurrency", "0"]);
        if token {
            command.args(["--token-file", "token"]);
        }
        let server = Process::spawn(command, &folder);
        // The last line of a start.
        assert!(comes_true(PATIENCE, || server.stderr().contains("serving")), "{}", server.stderr());
        server.signal("TERM");
        let mut server = server;
        server.wait();
        assert_eq!(server.stderr().contains(warning), warns, "{listen} {token}: {}", server.stderr());
    }
}
