//! Beginnings on a server: many at once, and what is refused, in one line that shows no password.

use super::{Instance, on_postgres};
use crate::harness::{Ended, Folder, Serving, cluster, created, order, orderd};

fn refused(url: &str, words: &[&str]) {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0", "--db", url]);
    let ended = Ended::of(command);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(!ended.stderr.contains("geheim"), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    words.iter().for_each(|word| assert!(last.contains(word), "expected {word:?} in {ended:?}"));
}

#[test]
fn eight_instances_that_start_at_once_on_an_empty_database_all_serve() {
    let Some(url) = on_postgres("") else { return };
    let folders: Vec<Folder> = (0..8).map(|_| Folder::new()).collect();
    let instances: Vec<Instance> = std::thread::scope(|scope| {
        let starts: Vec<_> = folders
            .iter()
            .map(|folder| scope.spawn(|| Instance::start(folder, &url, &["--processing-time", "0s", "--no-supervisor"])))
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    for (n, instance) in instances.iter().enumerate() {
        instance.post(order(&format!("o-{n}"))).expect(200, &created(&format!("o-{n}")));
    }
    instances[0].wait_until_completed(8);
    let migrations = instances.iter().filter(|instance| instance.stderr().contains("is at version")).count();
    assert_eq!(migrations, 1, "one makes the tables, the others wait");
    assert_eq!(instances[7].metrics(), instances[0].metrics());
}

#[test]
fn what_is_not_ours_or_too_new_is_refused_untouched() {
    let Some(url) = on_postgres("") else { return };
    let schema = url.split("schema=").nth(1).unwrap();
    let cluster = cluster().unwrap();
    cluster.sql(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.orders (a int)"));
    refused(&url, &["a table orders that is not orderd's", "?schema="]);
    cluster.sql(&format!("DROP TABLE {schema}.orders"));
    let folder = Folder::new();
    Instance::start(&folder, &url, &[]).stop();
    cluster.sql(&format!("UPDATE {schema}.orderd_meta SET version = 99, readable_from = 99"));
    refused(&url, &["newer orderd", "schema 99"]);
}

#[test]
fn a_url_that_promises_too_little_or_makes_no_sense_is_refused_in_a_line_without_its_password() {
    refused("postgres://u:geheim@db.example/n?sslmode=require", &["verify-full"]);
    refused("postgres://u:geheim@db.example:x/n", &["--db", "postgres://user@host"]);
    if let Some(url) = on_postgres("") {
        refused(&url.replace("@/postgres?", "@/no_such_database?"), &["no_such_database", "--db"]);
    }
}

#[test]
fn a_url_may_be_in_a_file_and_its_password_is_never_logged() {
    let Some(url) = on_postgres("") else { return };
    let folder = Folder::new();
    std::fs::write(folder.file("url"), url.replace("orderd@", "orderd:geheim@") + "\n").unwrap();
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0", "--log-level", "trace", "--db-file", "url"]);
    let server = Instance::spawn(command, &folder, &url);
    server.post(order("o-0")).expect(200, &created("o-0"));
    assert!(!server.stderr().contains("geheim"), "{}", server.stderr());
    assert!(server.stderr().contains(" db=postgres://"), "the log says where the orders are: {}", server.stderr());
}
