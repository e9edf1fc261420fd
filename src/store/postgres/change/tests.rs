//! Two controls: what the order of locks and what putting back are for is shown by leaving them out.
//!
//! Each runs on a server of its own, the one because it provokes what no other may have in its log, the other beside a lease that is
//! kept meanwhile.

use std::sync::Barrier;
use std::time::Instant;

use super::*;
use crate::os::clock::Clock;
use crate::store::Lock;
use crate::store::postgres::connection::Connection;
use crate::store::postgres::schema;
use crate::store::postgres::url::Server;
use crate::store::tests::cluster::{Cluster, cluster};
use crate::store::tests::proxy::Proxy;
use crate::store::tests::{new_order, opening};
use crate::store::write::Asked;

/// Two instances are sent the same orders in opposite order, again and again. Gives how often the server had to end a deadlock.
fn collide(server: &Cluster, at: &Server, statement: &str, what: &str, rounds: usize) -> usize {
    let before = server.deadlocks();
    let barrier = Barrier::new(2);
    let send = |slot: usize| {
        let mut connection = Connection::open(at).unwrap();
        for round in 0..rounds {
            let mut ids: Vec<String> = (0..500).map(|n| format!("'{what}-{round}-{n:03}'")).collect();
            if slot > 0 {
                ids.reverse();
            }
            let same = |value: &str| format!("ARRAY[{}]", vec![value; 500].join(","));
            let parameters = [format!("ARRAY[{}]", ids.join(",")), same("'u'"), same("'[\"i\"]'"), same("'1'")];
            let mut text = statement.replace("$5", "1").replace("$6", &slot.to_string());
            for (n, parameter) in parameters.iter().enumerate() {
                text = text.replace(&format!("${}", n + 1), parameter);
            }
            barrier.wait();
            let outcome = connection.execute(&text, WRITE_PATIENCE);
            assert!(matches!(outcome, Ok(()) | Err(Error::Held(_))), "{outcome:?}");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| send(0));
        send(1);
    });
    server.deadlocks() - before
}

#[test]
fn orders_that_two_instances_are_sent_in_opposite_order_wait_in_a_circle_unless_they_are_sorted() {
    const SORT: &str = " ORDER BY a COLLATE \"C\"";
    let Some(server) = Cluster::another() else { return };
    let at = Server::parse(server.fresh_url("").as_ref()).unwrap();
    schema::migrate(&mut Connection::open(&at).unwrap(), &at).unwrap();
    let unsorted = sql::CREATE.text().replace(SORT, "");
    assert_ne!(unsorted, sql::CREATE.text(), "there was no sort to leave out");
    let (mut rounds, mut without) = (0, 0);
    while without == 0 && rounds < 64 {
        without += collide(&server, &at, &unsorted, &format!("unsorted-{rounds}"), 8);
        rounds += 8;
    }
    let with = collide(&server, &at, sql::CREATE.text(), "sorted", rounds);
    eprintln!("{rounds} times 500 orders in opposite order: {without} deadlocks without the sort, {with} with it");
    assert!(without > 0, "the control shows nothing");
    assert_eq!(with, 0);
}

fn claims(writer: &mut Writer, limit: usize) -> Result<Vec<Claimed>, Error> {
    let mut batch = [Write::Process(Asked::new(Process { ended: Vec::new(), claim: limit }, |_| {}))];
    writer.apply(&mut batch, 10)?;
    let [Write::Process(asked)] = batch else { unreachable!("it was one") };
    Ok(asked.answer.unwrap())
}

#[test]
fn claims_whose_answer_was_lost_stay_under_a_living_owner_for_ever_unless_they_are_put_back() {
    const LOST: usize = 10;
    let Some(url) = cluster().map(|cluster| cluster.fresh_url("&lease=2s")) else { return };
    let lock = Lock::acquire(url.as_ref()).unwrap();
    // The lease is kept beside the proxy, which the writer goes through.
    let opened = crate::store::postgres::open(lock.server().unwrap(), &lock, &opening(Clock::manual(10))).unwrap();
    let (_, readers, keeper, lease) = opened;
    let proxy = Proxy::before(&url);
    let through = Arc::new(Server::parse(proxy.url(&url).as_ref()).unwrap());
    let mut writer = Writer::new(Line::new(through), lease.clone());
    let mut orders: Vec<Write> = (0..2 * LOST).map(|n| Write::Create(Asked::new(new_order(&n.to_string()), |_| {}))).collect();
    writer.apply(&mut orders, 10).unwrap();
    // From now on the statement is prepared, and the next answer is that to the claim itself.
    let begun = claims(&mut writer, 1).unwrap();
    proxy.lose_next_answer();
    let lost = claims(&mut writer, LOST);
    assert!(matches!(lost, Err(Error::Unknown(_))), "{lost:?}");

    // Without: the writer forgets that it is in doubt, goes on claiming, and the lease is kept, beat after beat.
    assert!(std::mem::take(&mut writer.in_doubt));
    let mut known: HashSet<Claimed> = begun.into_iter().collect();
    let owner = lease.holder();
    let end = Instant::now() + 3 * Duration::from_secs(2);
    while Instant::now() < end {
        // While the server is new to the line, it is refused for a moment.
        known.extend(claims(&mut writer, 100).unwrap_or_default());
        let orphans = readers.view(|view| view.orphans()).unwrap();
        assert!(orphans.is_empty(), "a sweep found them: {orphans:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(owner.is_some() && lease.holder() == owner, "the lease was lost");
    let processing = readers.view(|view| view.counts()).unwrap().processing as usize;
    assert_eq!((known.len(), processing), (LOST, 2 * LOST), "the control shows nothing");

    // With: whatever it does next, it puts back what is its own and not known, at no cost.
    writer.in_doubt = true;
    let found = claims(&mut writer, 100).unwrap();
    eprintln!("{} claims lost for three leases without putting back, {} begun with it", processing - known.len(), found.len());
    assert!(found.len() == LOST && found.iter().all(|claim| claim.attempt == 1 && known.insert(*claim)), "{found:?}");
    keeper.close();
}
