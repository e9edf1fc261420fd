//! What a program does with a server inside itself: everything without HTTP, and without a socket if it wants none.
//!
//! The clock is the real one, as most tests here are about calls that wait.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use orderd::{Config, Counts, Filter, Listen, NewOrder, OrderError, Orders, Server, Status, Stored, Work, WorkError};

use crate::harness::{Folder, PATIENCE, connection, get, order, post};

/// A server without a socket whose work is `work`.
fn start(folder: &Folder, work: Work) -> Server {
    let db = folder.file("orders.db");
    Server::start(&Config { listen: Listen::None, db, work, retry_delay: Duration::ZERO, ..Config::default() }).unwrap()
}

fn done() -> Work {
    Work::function(|_| Ok(()))
}

fn new_order(id: &str) -> NewOrder {
    NewOrder::new(id, "user1", ["item1", "item2"], "100.0").unwrap()
}

#[track_caller]
fn create(orders: &Orders, id: &str) {
    assert_eq!(orders.create(new_order(id)).unwrap(), Stored::New);
}

#[test]
fn orders_are_created_read_listed_and_counted_without_a_socket() {
    let folder = Folder::new();
    let server = start(&folder, done());
    assert!(server.address().is_none() && server.socket_addr().is_none());
    assert_eq!(server.to_string(), "nowhere");
    let orders = server.orders();
    for id in ["a", "b", "c"] {
        create(&orders, id);
        assert_eq!(orders.wait(id, PATIENCE).unwrap().status, Status::Completed);
    }
    assert_eq!(orders.create(new_order("a")).unwrap(), Stored::Replayed);
    let other = NewOrder::new("a", "user2", ["item1"], 1).unwrap();
    assert!(matches!(orders.create(other), Err(OrderError::Conflict)));

    let read = orders.get("a").unwrap();
    assert_eq!((read.user_id.as_str(), read.total_amount.as_str(), read.attempts), ("user1", "100.0", 1));
    assert!(matches!(orders.get("d"), Err(OrderError::Unknown)) && matches!(orders.get(""), Err(OrderError::Unknown)));

    let completed = Filter { status: Some(Status::Completed), ..Filter::default() };
    let page = orders.list(&completed, None, 2).unwrap();
    let ids = |page: &orderd::Page| page.orders.iter().map(|order| order.order_id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&page), ["c", "b"]);
    let rest = orders.list(&completed, page.next, 2).unwrap();
    assert_eq!((ids(&rest), rest.next), (vec!["a".to_string()], None));
    let counts = Counts { processing_ms: 0, ..orders.counts().unwrap() };
    assert_eq!(counts, Counts { completed: 3, ..Counts::default() });
    server.stop();
}

/// The same store, the same orders.
#[test]
fn who_listens_serves_clients_and_its_program_alike() {
    let folder = Folder::new();
    let listen = Listen::Tcp("127.0.0.1:0".into());
    let server = Server::start(&Config { listen, db: folder.file("orders.db"), work: done(), ..Config::default() }).unwrap();
    assert_eq!(server.to_string(), format!("http://{}", server.socket_addr().unwrap()));
    let mut client = crate::harness::Client::connect(server.address().unwrap()).unwrap();
    client.ask(post(order("over-http"))).expect_status(200);
    let orders = server.orders();
    assert_eq!(orders.wait("over-http", PATIENCE).unwrap().status, Status::Completed);
    assert_eq!(orders.create(new_order("over-http")).unwrap(), Stored::Replayed);
}

/// As a browser keeps it. What it asks would never be answered, so it is to hear so at once; and the port is free.
#[test]
fn a_stop_closes_idle_connections_and_leaves_the_address_to_the_next() {
    let folder = Folder::new();
    let at = |listen| Config { listen, db: folder.file("orders.db"), concurrency: Some(0), ..Config::default() };
    let unix = Listen::Unix(folder.file("s"));
    for listen in [Listen::Tcp("127.0.0.1:0".into()), unix] {
        let server = Server::start(&at(listen)).unwrap();
        let (address, socket) = (server.address().unwrap().clone(), server.socket_addr());
        // One that has asked, and one that never has.
        let mut idle: Vec<_> = (0..2).map(|_| crate::harness::Client::connect(&address).unwrap()).collect();
        idle[0].ask(get("/healthz")).expect_status(200);
        server.stop();
        if let Some(socket) = socket {
            let free = std::net::TcpListener::bind(socket).expect("nobody listens there any more");
            drop(free);
        }
        for mut client in idle {
            // Sending may fail already. What is wrong is to wait until the read timeout.
            let answer = client.try_ask(get("/healthz"));
            let error = answer.expect_err("nobody is there to answer");
            assert!(error.kind() != std::io::ErrorKind::WouldBlock, "its end is not seen: {error}");
        }
    }
}

#[test]
fn a_failed_order_is_retried_and_no_other() {
    let folder = Folder::new();
    let is_mended = Arc::new(Mutex::new(false));
    let mended = is_mended.clone();
    let work = Work::function(move |_| if *mended.lock().unwrap() { Ok(()) } else { Err(WorkError::fatal("no stock")) });
    let server = start(&folder, work);
    let orders = server.orders();
    create(&orders, "a");
    let failed = orders.wait("a", PATIENCE).unwrap();
    assert_eq!((failed.status, failed.last_error.as_deref()), (Status::Failed, Some("no stock")));
    *is_mended.lock().unwrap() = true;
    assert_eq!(orders.retry("a").unwrap().status, Status::Pending);
    assert_eq!(orders.wait("a", PATIENCE).unwrap().status, Status::Completed);
    assert!(matches!(orders.retry("a"), Err(OrderError::NotFailed)));
    assert!(matches!(orders.retry("b"), Err(OrderError::Unknown)));
}

#[test]
fn a_pending_order_is_cancelled_and_who_waits_for_it_is_told() {
    let folder = Folder::new();
    let (listen, db) = (Listen::None, folder.file("orders.db"));
    let server = Server::start(&Config { listen, db, concurrency: Some(0), ..Config::default() }).unwrap();
    let orders = server.orders();
    let begun = Instant::now();
    let rounds = 20;
    for n in 0..rounds {
        let (id, waiting) = (n.to_string(), orders.clone());
        create(&orders, &id);
        let told = std::thread::spawn(move || waiting.wait(n.to_string(), PATIENCE));
        assert_eq!(orders.cancel(&id).unwrap().status, Status::Cancelled);
        assert_eq!(told.join().unwrap().unwrap().status, Status::Cancelled);
    }
    assert!(begun.elapsed() < Duration::from_secs(rounds / 2), "{:?} for {rounds} orders", begun.elapsed());
    assert!(matches!(orders.cancel("0"), Err(OrderError::NotPending)));
    assert!(matches!(orders.cancel("none"), Err(OrderError::Unknown)));
}

#[test]
fn whoever_waits_too_short_gets_the_order_as_it_is() {
    let folder = Folder::new();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let server = start(
        &folder,
        Work::function(move |_| {
            let _ = released.lock().unwrap().recv_timeout(PATIENCE);
            Ok(())
        }),
    );
    let orders = server.orders();
    create(&orders, "a");
    let Err(OrderError::TimedOut(order)) = orders.wait("a", Duration::from_millis(20)) else { panic!("it has ended") };
    assert_eq!(order.order_id.as_str(), "a");
    assert!(matches!(order.status, Status::Pending | Status::Processing));
    assert!(matches!(orders.wait("b", PATIENCE), Err(OrderError::Unknown)));
    // Nothing overflows.
    let forever = std::thread::spawn(move || orders.wait("a", Duration::MAX).map(|order| order.status));
    drop(release);
    assert_eq!(forever.join().unwrap().unwrap(), Status::Completed);
}

/// Told, not found out by looking again each second: many ends in a row would take as many seconds.
#[test]
fn whoever_waits_is_told_at_once() {
    let folder = Folder::new();
    let server = start(&folder, done());
    let orders = server.orders();
    let begun = Instant::now();
    let rounds = 60;
    for n in 0..rounds {
        create(&orders, &n.to_string());
        orders.wait(n.to_string(), PATIENCE).unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(rounds / 2), "{:?} for {rounds} orders", begun.elapsed());
}

#[test]
fn many_wait_for_many_orders_and_each_hears_of_its_own() {
    let folder = Folder::new();
    let db = folder.file("orders.db");
    let wait = Duration::from_millis(200);
    let config = Config { listen: Listen::None, db, processing_time: wait, ..Config::default() };
    let server = Server::start(&config).unwrap();
    std::thread::scope(|scope| {
        for n in 0..50 {
            let orders = server.orders();
            scope.spawn(move || {
                let id = format!("o-{}", n / 2);
                orders.create(new_order(&id)).unwrap();
                let order = orders.wait(&id, PATIENCE).unwrap();
                assert_eq!((order.order_id.as_str(), order.status), (id.as_str(), Status::Completed));
            });
        }
    });
    assert_eq!(server.orders().counts().unwrap().completed, 25);
}

/// Nobody tells of it, so it is found by looking again.
#[test]
fn an_order_that_another_program_ends_or_deletes_is_noticed() {
    let folder = Folder::new();
    let server = start(&folder, Work::Wait);
    let orders = &server.orders();
    std::thread::scope(|scope| {
        for (id, sql) in [
            ("a", "UPDATE orders SET status = 'Failed' WHERE order_id = 'a'"),
            ("b", "DELETE FROM orders WHERE order_id = 'b'"),
        ] {
            create(orders, id);
            let waiting = scope.spawn(move || orders.wait(id, PATIENCE));
            connection(&folder.file("orders.db")).execute_batch(sql).unwrap();
            match (waiting.join().unwrap(), id) {
                (Ok(order), "a") => assert_eq!(order.status, Status::Failed),
                (Err(OrderError::Unknown), "b") => {}
                (other, _) => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn after_a_stop_every_call_is_refused_and_nobody_waits_on() {
    let folder = Folder::new();
    let server = start(&folder, Work::Wait);
    let orders = server.orders();
    create(&orders, "a");
    let waiting = orders.clone();
    let waiting = std::thread::spawn(move || waiting.wait("a", Duration::MAX));
    server.stop();
    for refused in [
        waiting.join().unwrap().map(drop),
        orders.create(new_order("b")).map(drop),
        orders.get("a").map(drop),
        orders.counts().map(drop),
        orders.retry("a").map(drop),
        orders.cancel("a").map(drop),
        orders.wait("a", PATIENCE).map(drop),
    ] {
        assert!(matches!(refused, Err(OrderError::Store(_))), "{refused:?}");
    }
    // What was created is there for the next one.
    let server = start(&folder, done());
    assert_eq!(server.orders().wait("a", PATIENCE).unwrap().status, Status::Completed);
}
