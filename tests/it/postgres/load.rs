//! Clients that go on ordering whatever happens to the server: what was acknowledged is known, and a refusal is a 503 that says so.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Instance, Over};
use crate::harness::{Client, Serving, order, post};

const CLIENTS: usize = 8;

/// Clients send orders until `deed` is done, each again under its id until it is acknowledged. Gives the acknowledged, and how many
/// requests were refused.
pub fn under_load(instance: &Instance, deed: impl FnOnce()) -> (HashSet<String>, usize) {
    let (sent, refused, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let acknowledged = Mutex::new(HashSet::new());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = None::<Client>;
                while !over.load(Ordering::Relaxed) {
                    let id = format!("o-{}", sent.fetch_add(1, Ordering::Relaxed));
                    loop {
                        let answer = match &mut client {
                            Some(client) => client.try_ask(post(order(&id))),
                            None => {
                                Client::connect(instance.address()).and_then(|new| client.insert(new).try_ask(post(order(&id))))
                            }
                        };
                        match answer {
                            Ok(answer) if answer.status == 200 => break,
                            Ok(answer) => {
                                answer.expect_error(503, "storage_unavailable");
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(_) => client = None,
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    acknowledged.lock().unwrap().insert(id);
                }
            });
        }
        // Also when a check fails: they are waited for.
        let _over = Over(&over);
        deed();
    });
    (acknowledged.into_inner().unwrap(), refused.into_inner())
}
