//! The subcommands that read the database themselves, told of a server: `prune` works there, and the others say what does in their place.

use super::on_postgres;
use crate::harness::{Ended, Folder, Serving, created, order, orderd};

#[test]
fn finished_orders_are_pruned_beside_a_running_instance_by_a_url_in_a_file() {
    let Some(url) = on_postgres("") else { return };
    let folder = Folder::new();
    let instance = super::Instance::start(&folder, &url, &["--processing-time", "0s"]);
    for n in 0..3 {
        instance.post(order(&format!("o-{n}"))).expect(200, &created(&format!("o-{n}")));
    }
    instance.wait_until_completed(3);
    std::fs::write(folder.file("url"), format!("{url}\n")).unwrap();
    let prune = |args: &[&str]| {
        let mut command = orderd(&folder);
        command.args(["prune", "--older-than", "0s", "--log-level", "off"]).args(args);
        command.env("XDG_RUNTIME_DIR", folder.path()).env_remove("RUNTIME_DIRECTORY");
        Ended::of(command)
    };
    prune(&["--status", "Failed", "--db", &url]).expect_done("0 orders deleted; their room is used again\n");
    prune(&["--db-file", "url"]).expect_done("3 orders deleted; their room is used again\n");
    assert_eq!(instance.metrics().total, 0);
    instance.post(order("o-0")).expect(200, &created("o-0"));
}

#[test]
fn what_is_for_a_file_alone_says_what_a_server_has_in_its_place() {
    let folder = Folder::new();
    std::fs::write(folder.file("url"), "postgres://u:geheim@db.example/n").unwrap();
    std::fs::write(folder.file("empty"), "\n").unwrap();
    for (args, words) in [
        (&["backup", "copy"][..], ["pg_dump", "docs/scaling.md"]),
        (&["restore", "copy"], ["pg_restore", "docs/scaling.md"]),
        (&["check"], ["pg_amcheck", "docs/scaling.md"]),
    ] {
        for told in [["--db", "postgres://u:geheim@db.example/n"], ["--db-file", "url"]] {
            let mut command = orderd(&folder);
            command.args(args).args(told);
            let ended = Ended::of(command);
            ended.expect_refused(&words);
            assert!(!ended.stderr.contains("geheim"), "{ended:?}");
        }
    }
    let mut command = orderd(&folder);
    command.args(["check", "--db-file", "empty"]);
    Ended::of(command).expect_refused(&["--db-file", "it is empty"]);
}
