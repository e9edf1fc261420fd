//! Three instances under load, each killed, frozen, cut off from the server or stopped in order again and again, while their commands
//! write to one ledger: no acknowledged order is lost, all end, the counts are exact, and no two commands of one order run at once.
//!
//! A command writes the number of its attempt several times. Once a later attempt has written, an earlier one must not: so the ledger
//! itself shows any overlap. A frozen command may do a last thing when it wakes, which nobody can prevent; so those who can end it are
//! woken a moment before.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orderd::Address;

use super::{Instance, Over, assert_books, on_postgres};
use crate::harness::{Client, Folder, Proxy, Serving, Way, Worker, order, post, quick_or_slow};

const INSTANCES: usize = 3;
const LEASE: Duration = Duration::from_secs(6);
/// What happens to one of them: cut off from the server both ways or one, among others.
const DEEDS: [&str; 7] = ["kill the worker", "kill all", "freeze", "cut off", "not heard", "deaf", "stop"];

/// Numbers that look random, and are the same in each run.
struct Lot(u64);

impl Lot {
    fn draw(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn three_instances_that_die_freeze_and_are_cut_off_lose_nothing_and_never_work_on_one_order_at_once() {
    let Some(url) = on_postgres(&format!("&lease={}s", LEASE.as_secs())) else { return };
    let shared = Folder::new();
    let ledger = shared.file("ledger");
    let work = format!(
        "n=0; while [ $n -lt 6 ]; do echo \"$ORDER_ID $ORDER_ATTEMPT\" >>{}; n=$((n+1)); sleep 0.05; done",
        ledger.display()
    );
    let folders: Vec<Folder> = (0..INSTANCES).map(|_| Folder::new()).collect();
    let proxies: Vec<Proxy> = (0..INSTANCES).map(|_| Proxy::before(&url)).collect();
    let flags = [
        "--exec",
        &work,
        "--max-attempts",
        "1000",
        "--retry-delay",
        "50ms",
        "--shutdown-timeout",
        "200ms",
        "--concurrency",
        "6",
    ];
    let start = |n: usize| Instance::start(&folders[n], &proxies[n].url(&url), &flags);
    let mut instances: Vec<Option<Instance>> = (0..INSTANCES).map(|n| Some(start(n))).collect();
    let addresses: RwLock<Vec<Address>> = RwLock::new(instances.iter().flatten().map(|i| i.address().clone()).collect());
    let (sent, over, acknowledged) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(HashSet::new()));
    let mut deeds: HashMap<&str, usize> = HashMap::new();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (addresses, sent, over, acknowledged) = (&addresses, &sent, &over, &acknowledged);
            scope.spawn(move || {
                let mut at = n;
                while !over.load(Ordering::Relaxed) {
                    let id = format!("o-{}", sent.fetch_add(1, Ordering::Relaxed));
                    while !over.load(Ordering::Relaxed) {
                        // Any instance, as behind a load balancer; of one that does not answer, the next is asked.
                        at += 1;
                        let address = addresses.read().unwrap()[at % INSTANCES].clone();
                        let answer = Client::connect(&address).and_then(|mut client| {
                            client.set_read_timeout(Duration::from_secs(2))?;
                            client.try_ask(post(order(&id)))
                        });
                        if answer.is_ok_and(|answer| answer.status == 200) {
                            acknowledged.lock().unwrap().insert(id);
                            break;
                        }
                    }
                    std::thread::sleep(Duration::from_millis(60));
                }
            });
        }
        // Also when a check fails: they are waited for.
        let _over = Over(&over);
        let mut lot = Lot(11);
        let end = Instant::now() + Duration::from_secs(quick_or_slow(0, 120));
        let mut deck = Vec::new();
        // Each deed at least once.
        while Instant::now() < end || deeds.len() < DEEDS.len() {
            let n = lot.draw(INSTANCES as u64) as usize;
            if deck.is_empty() {
                deck = DEEDS.to_vec();
            }
            let deed = deck.swap_remove(lot.draw(deck.len() as u64) as usize);
            *deeds.entry(deed).or_default() += 1;
            match deed {
                "kill the worker" => Worker::of(instances[n].as_ref().unwrap()).signal("KILL"),
                "freeze" => {
                    let instance = instances[n].as_ref().unwrap();
                    let all = instance.all_processes();
                    send(&all, Signal::SIGSTOP);
                    std::thread::sleep(LEASE + Duration::from_secs(1));
                    let commands = instance.commands();
                    send(&all.into_iter().filter(|id| !commands.contains(id)).collect::<Vec<_>>(), Signal::SIGCONT);
                    std::thread::sleep(Duration::from_millis(700));
                    send(&commands, Signal::SIGCONT);
                }
                "cut off" | "not heard" | "deaf" => {
                    let ways: &[Way] = match deed {
                        "not heard" => &[Way::ToServer],
                        "deaf" => &[Way::ToClient],
                        _ => &[Way::ToServer, Way::ToClient],
                    };
                    proxies[n].cut(ways);
                    std::thread::sleep(LEASE + Duration::from_secs(1));
                    proxies[n].mend();
                }
                deed => {
                    let instance = instances[n].take().unwrap();
                    if deed == "stop" {
                        instance.stop()
                    } else {
                        instance.kill_all()
                    }
                    instances[n] = Some(start(n));
                    addresses.write().unwrap()[n] = instances[n].as_ref().unwrap().address().clone();
                }
            }
            std::thread::sleep(Duration::from_millis(lot.draw(1_000)));
        }
    });
    let living: Vec<&Instance> = instances.iter().flatten().collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    assert_books(&living, &url, &acknowledged);
    let text = std::fs::read_to_string(&ledger).unwrap();
    let overlaps = overlaps(&text);
    eprintln!(
        "{deeds:?}: {} acknowledged, {} lines in the ledger, {} overlaps",
        acknowledged.len(),
        text.lines().count(),
        overlaps.len()
    );
    assert!(overlaps.is_empty(), "{overlaps:?}");
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
}

/// To those that are still there.
fn send(ids: &[u32], signal: Signal) {
    ids.iter().for_each(|id| _ = kill(Pid::from_raw(*id as i32), signal));
}

/// What in a ledger of lines with an order's id and the number of its attempt shows that two commands of one order ran at once: an
/// earlier attempt after a later one.
pub fn overlaps(ledger: &str) -> Vec<String> {
    let mut newest: HashMap<&str, u32> = HashMap::new();
    let mut overlaps = Vec::new();
    for line in ledger.lines() {
        let (id, attempt) = line.split_once(' ').unwrap();
        let attempt: u32 = attempt.parse().unwrap();
        let last = newest.entry(id).or_insert(attempt);
        if attempt < *last {
            overlaps.push(format!("{id}: {attempt} after {last}"));
        }
        *last = attempt.max(*last);
    }
    overlaps
}
