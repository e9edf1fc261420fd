//! `orderd retry`: what an operator types to have failed orders tried again, and what it says.
//!
//! It is asked over TCP and over Unix sockets. Each thing that goes wrong is named in one line with its remedy, and with a status
//! that a script can tell.

use std::fs;
use std::net::TcpListener;

use orderd::Address;

use crate::harness::{Ended, Folder, PATIENCE, Process, Serving, asking, by_hand, created, ids, order, orderd, poll_until};

fn run(folder: &Folder, server: &Process, args: &[&str]) -> Ended {
    Ended::of(asking(folder, server, args))
}

/// Has every order of `server` fail, as if its attempts were used up.
fn fail_all(server: &Process) {
    let sql = "UPDATE orders SET status = 'Failed', attempts = 5, last_error = 'no stock'";
    by_hand(&server.db(), sql);
}

#[test]
fn one_failed_order_is_tried_again_over_tcp_and_unix_sockets() {
    for listen in ["127.0.0.1:0", "unix:orderd.sock"] {
        let folder = Folder::new();
        let mut command = orderd(&folder);
        command.args(["--listen", listen, "--exec", "test -e mended || { echo broken >&2; exit 65; }"]);
        let server = Process::spawn(command, &folder);
        // A relative path is only for those in this folder, as its clients here are not.
        let server = if listen.starts_with("unix") { server.at(Address::Unix(folder.file("orderd.sock"))) } else { server };
        server.create(ids(0..2));
        ids(0..2).for_each(|id| _ = server.wait_for(&id, "Failed"));
        fs::write(folder.file("mended"), "").unwrap();
        run(&folder, &server, &["retry", "o-0"]).expect_done("1 order will be tried again\n");
        assert_eq!(server.wait_for("o-0", "Completed")["attempts"], 2);
        assert_eq!(server.status("o-1"), "Failed");
        run(&folder, &server, &["retry", "o-0"]).expect_failed(&["o-0", "only an order that has failed"]);
        run(&folder, &server, &["retry", "nobody"]).expect_failed(&["nobody", "Order not found"]);
        server.stop();
    }
}

/// More of them than fit on a page, and some of the largest.
#[test]
fn all_failed_orders_are_tried_again_and_no_others() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--exec", "test -e mended || exit 65", "--concurrency", "16"]);
    run(&folder, &server, &["retry", "--failed"]).expect_done("0 orders will be tried again\n");
    server.create(ids(0..250));
    let large = vec![format!("\"{}\"", "i".repeat(255)); 999].join(",");
    for id in ["large-1", "large-2"] {
        server.post(order(id).replace("\"item1\"", &large)).expect_status(200);
    }
    poll_until(PATIENCE, || server.rows().iter().all(|row| row.status == "Failed" && row.attempts == 1));
    fs::write(folder.file("mended"), "").unwrap();
    server.create((0..10).map(|n| format!("fine-{n}")));
    (0..10).for_each(|n| _ = server.wait_for(&format!("fine-{n}"), "Completed"));
    run(&folder, &server, &["retry", "--failed"]).expect_done("252 orders will be tried again\n");
    server.wait_until_completed(262);
    assert!(server.rows().iter().all(|row| row.attempts == if row.order_id.starts_with("fine") { 1 } else { 2 }));
    server.stop();
}

#[test]
fn an_id_may_need_any_escape() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let strange = ["a/b", "a b", "100%", "ä€😀", "?x=1#y", "..", "-dash", "--failed", "retry"];
    for id in strange {
        server.post(order(id)).expect(200, &created(id));
    }
    fail_all(&server);
    for id in strange {
        run(&folder, &server, &["retry", "--", id]).expect_done("1 order will be tried again\n");
    }
    assert!(server.rows().iter().all(|row| row.status == "Pending" && row.attempts == 5), "{:#?}", server.rows());
    server.stop();
}

#[test]
fn who_cannot_be_reached_is_named_with_the_remedy() {
    let folder = Folder::new();
    let run = |listen: &str, args: &[&str]| {
        let mut command = orderd(&folder);
        command.args(args).args(["--listen", listen]);
        Ended::of(command)
    };
    // Bound and given back, so that nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for args in [&["retry", "1"][..], &["retry", "--failed"]] {
        run(&free, args).expect_failed(&[&free, "start it", "--listen"]);
        run("unix:nobody.sock", args).expect_failed(&["unix:nobody.sock", "--listen"]);
    }
    assert_eq!(folder.names(), [""; 0], "no database is made");

    // What answers there need not be orderd.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let answer = std::thread::spawn(move || {
        use std::io::Write;
        other.accept().unwrap().0.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
    });
    run(&address, &["retry", "1"]).expect_failed(&[&address]);
    answer.join().unwrap();
}

#[test]
fn what_is_typed_wrong_is_refused() {
    let folder = Folder::new();
    let run = |args: &[&str]| {
        let mut command = orderd(&folder);
        command.args(args);
        Ended::of(command)
    };
    for args in [&["retry"][..], &["retry", "1", "2"], &["retry", "1", "--failed"]] {
        run(args).expect_refused(&["retry", "--failed", "--help"]);
    }
    run(&["--failed"]).expect_refused(&["--failed", "retry"]);
    run(&["serve", "--failed"]).expect_refused(&["--failed", "retry"]);
    run(&["retry", "1", "--listen", "8000"]).expect_refused(&["--listen", "\"8000\""]);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn what_is_no_id_is_refused_by_the_server() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    run(&folder, &server, &["retry", ""]).expect_failed(&["at least 1 character"]);
    run(&folder, &server, &["retry", &"i".repeat(256)]).expect_failed(&["at most 255 bytes"]);
    server.stop();
}
