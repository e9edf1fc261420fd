//! How little memory is enough: what both processes of a supervised orderd hold at their peaks, as the system has counted it.
//!
//! Pages that both share count twice here, so a machine needs less than what is measured.

use crate::harness::{Folder, Process, Serving, Worker, created, get, order, post, quick_or_slow};

/// What the documents promise.
const ENOUGH_MIB: u64 = 32;

#[test]
fn thirty_two_megabytes_are_enough_with_a_hundred_connections() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "10ms"]);
    let mut clients: Vec<_> = (0..100).map(|_| server.client()).collect();
    for round in 0..quick_or_slow(20, 200) {
        let ids: Vec<_> = (0..clients.len()).map(|n| format!("{round}-{n}")).collect();
        // All of them are under way at once.
        clients.iter_mut().zip(&ids).for_each(|(client, id)| client.send(post(order(id))).unwrap());
        clients.iter_mut().zip(&ids).for_each(|(client, id)| _ = client.answer().expect(200, &created(id)));
        clients.iter_mut().zip(&ids).for_each(|(client, id)| client.send(get(&format!("/orders/{id}"))).unwrap());
        clients.iter_mut().for_each(|client| _ = client.answer().expect_status(200));
        clients.iter_mut().take(10).for_each(|client| client.send(get("/orders?limit=100")).unwrap());
        clients.iter_mut().take(10).for_each(|client| _ = client.answer().expect_status(200));
    }
    let peaks = [Worker::with_id(server.id()), Worker::of(&server)].map(Worker::peak_bytes);
    let all = peaks.iter().sum::<u64>() >> 20;
    eprintln!("peaks of parent and child: {:?} KiB", peaks.map(|bytes| bytes >> 10));
    assert!(peaks[1] > 1 << 20 && all < ENOUGH_MIB, "{all} MiB: {peaks:?}");
    server.stop();
}
