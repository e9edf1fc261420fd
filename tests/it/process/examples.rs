//! What the documents show, run as it is written: the commands of the README and of `docs/processing.md`, and `examples/embed.rs`.
//!
//! Only the ports are others, as those in the documents may be in use. Needs curl and python3, as the README says.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::Value;

use crate::harness::{Folder, PATIENCE, Process, Serving, created, in_clean_environment, order, poll_until};

#[path = "../../../examples/embed.rs"]
#[allow(dead_code, reason = "its main is for those who run it by itself")]
mod embed;

#[test]
fn the_embedding_example_shows_what_became_of_its_orders_and_ends() {
    let mut out = Vec::new();
    embed::run(&mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("orderd listens on http://127.0.0.1:"), "{out}");
    let ends = ["tea: Completed after 1 attempts, no error", "books: Completed after 2 attempts, no error"];
    assert_eq!(lines[1..3], ends, "{out}");
    assert_eq!(lines[3..5], ["piano: Failed after 1 attempts, a piano fits no label", "completed: 2"], "{out}");
    assert_eq!(lines[5..], ["label: tea for ada", "label: books for ada"], "{out}");
}

/// The blocks of code that are in `language`, in the README and in the document on processing.
fn blocks(language: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = ["README.md", "docs/processing.md"].map(|name| fs::read_to_string(root.join(name)).unwrap());
    let fence = format!("```{language}\n");
    let of = |text: &String| {
        text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_string()).collect::<Vec<_>>()
    };
    documents.iter().flat_map(of).collect()
}

/// The shell block that mentions `word`.
#[track_caller]
fn shell(word: &str) -> String {
    let found: Vec<_> = blocks("sh").into_iter().filter(|block| block.contains(word)).collect();
    assert_eq!(found.len(), 1, "one block with {word:?}: {found:?}");
    found[0].clone()
}

/// Runs a block that starts orderd, found where an installed one would be.
fn serve(script: &str, folder: &Folder) -> Process {
    let mut command = in_clean_environment(Command::new("sh"), folder);
    let binary = Path::new(env!("CARGO_BIN_EXE_orderd")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    command.args(["-c", &format!("exec {script}")]).env("PATH", path).env("ORDERD_LISTEN", "127.0.0.1:0");
    Process::spawn(command, folder)
}

/// Something that takes orders over HTTP, one at a time: passes on what it was sent, and answers with the status it is given.
fn warehouse() -> (u16, Receiver<(String, String)>, Sender<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (requests, received) = channel();
    let (answers, next) = channel::<&'static str>();
    // Ends when nobody says any more what to answer.
    std::thread::spawn(move || {
        while let Ok(status) = next.recv() {
            let Ok((stream, _)) = listener.accept() else { return };
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|read| read > 0) {}
            let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            let _ = stream.read_exact(&mut body);
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.get_mut().write_all(answer.as_bytes());
            if requests.send((head, String::from_utf8_lossy(&body).into_owned())).is_err() {
                return;
            }
        }
    });
    (port, received, answers)
}

#[test]
fn the_example_with_curl_posts_an_order_elsewhere_and_tries_again_when_refused() {
    let (port, requests, answers) = warehouse();
    let folder = Folder::new();
    let script = shell("curl --fail").replace("127.0.0.1:9000", &format!("127.0.0.1:{port}"));
    let server = serve(&script, &folder);
    server.post(order("a b")).expect(200, &created("a b"));
    for status in ["503 Service Unavailable", "201 Created"] {
        answers.send(status).unwrap();
        let (head, body) = requests.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no request: {}", server.stderr()));
        let header = |line: &str| head.lines().any(|found| found.eq_ignore_ascii_case(line));
        assert!(
            head.starts_with("POST ") && header("Idempotency-Key: a b") && header("Content-Type: application/json"),
            "{head}"
        );
        let record: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {head}{body}"));
        assert_eq!((&record["order_id"], &record["status"]), (&"a b".into(), &"Processing".into()));
    }
    let record = server.wait_for("a%20b", "Completed");
    assert_eq!(record["attempts"], 2, "{record:#}");
    let logged = server.stderr().lines().any(|line| line.contains("order=\"a b\" ") && line.contains("503"));
    assert!(logged, "{}", server.stderr());
    server.stop();
}

#[test]
fn the_example_in_python_writes_a_label_and_fails_what_it_cannot_send() {
    let folder = Folder::new();
    let script = blocks("python");
    assert_eq!(script.len(), 1);
    fs::write(folder.file("ship.py"), &script[0]).unwrap();
    let server = serve(&shell("ship.py"), &folder);
    server.post(order("a/b")).expect(200, &created("a/b"));
    server.post(order("dear").replace("100.0", "10000.01")).expect(200, &created("dear"));
    let record = server.wait_for("a%2Fb", "Completed");
    assert_eq!(record["attempts"], 1, "{record:#}");
    assert_eq!(fs::read_to_string(folder.file("labels/a%2Fb.txt")).unwrap(), "user1: item1, item2\n");
    let record = server.wait_for("dear", "Failed");
    assert_eq!((&record["attempts"], &record["last_error"]), (&1.into(), &"too dear to send without a signature".into()));
    assert!(!folder.file("labels/dear.txt").exists());
    server.stop();
}

/// The blocks about failed orders, with the server of the others.
#[test]
fn the_commands_for_failed_orders_list_them_and_have_them_tried_again() {
    let folder = Folder::new();
    let server = serve("orderd --exec 'test -e mended || exit 65'", &folder);
    server.create(["123", "124"].map(String::from));
    ["123", "124"].iter().for_each(|id| _ = server.wait_for(id, "Failed"));
    fs::write(folder.file("mended"), "").unwrap();
    let orderd::Address::Tcp(address) = server.address().clone() else { panic!("no port in {}", server.address()) };
    let mut command = in_clean_environment(Command::new("sh"), &folder);
    let binary = Path::new(env!("CARGO_BIN_EXE_orderd")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let script = shell("orderd retry").replace("127.0.0.1:8000", &address.to_string());
    command.args(["-ec", &script]).env("PATH", path).env("ORDERD_LISTEN", address.to_string());
    let output = command.output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let listing = stdout.lines().find(|line| line.starts_with('{')).expect("a listing");
    assert_eq!(serde_json::from_str::<Value>(listing).unwrap()["data"].as_array().unwrap().len(), 2, "{stdout}");
    poll_until(PATIENCE, || server.metrics().all_completed(2));
    server.stop();
}
