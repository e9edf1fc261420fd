//! A second orderd on a file that has an owner: by the same path, another path, a link to the file, a link to its folder; while the
//! first serves under load, restarts its worker or renews it.
//!
//! It must be refused within a second; a machine that is so busy that a start takes long is given as much more. Held is promise 4. The control is the same start once
//! the first has ended, which must not be refused.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::harness::{Ended, Folder, PATIENCE, Process, Worker, comes_true, is_running};
use crate::load::{Load, command, start_takes};
use crate::runner::{Extent, Outcome, extent, rounds};

const AT_MOST: Duration = Duration::from_secs(1);

pub fn a_second_orderd_is_refused_by_whatever_path() -> Outcome {
    let rounds = rounds(1, 2, 10)?;
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let server = Process::start(&folder, &["--processing-time", "10ms"]);
    let load = Load::start("o", 2, &server);
    load.wait_for_more(1);
    symlink(folder.file("orders.db"), elsewhere.file("link.db")).unwrap();
    symlink(folder.path(), elsewhere.file("folder")).unwrap();
    let detour = format!("../{}/./orders.db", folder.path().file_name().unwrap().to_str().unwrap());
    let paths = [
        "orders.db".to_string(),
        folder.file("orders.db").display().to_string(),
        detour,
        elsewhere.file("link.db").display().to_string(),
        elsewhere.file("folder/orders.db").display().to_string(),
    ];
    let mut took = Vec::new();
    // Each of them takes a second, so a quick run has two.
    let step = if extent() == Extent::Quick { 3 } else { 1 };
    for round in 0..rounds {
        for (n, path) in paths.iter().enumerate().step_by(step) {
            match (round + n) % 3 {
                0 => {}
                1 => Worker::of(&server).signal("KILL"),
                _ => server.signal("USR1"),
            }
            let began = Instant::now();
            Ended::of(command(&folder, &["--db", path])).expect_refused(&["in use by another orderd"]);
            took.push(began.elapsed());
        }
    }
    took.sort();
    // One in ten may have met a machine that stood still.
    let (nearly_all, longest) = (took[took.len() * 9 / 10], took[took.len() - 1]);
    if nearly_all > AT_MOST {
        let most = AT_MOST + 10 * start_takes();
        assert!(nearly_all < most, "refused after {nearly_all:?}, and {most:?} would do on this machine");
    }
    load.wait_for_more(1);
    let told = load.stop();
    told.holds_after_a_drain(&server);
    let id = server.id();
    server.kill();
    assert!(comes_true(PATIENCE, || !is_running(id)), "it lives");
    let control = Process::spawn(command(&folder, &["--db", &paths[3]]), &folder);
    told.holds(&control);
    control.stop();
    Ok(format!(
        "{rounds} rounds of {} paths at most, nine of ten refused within {nearly_all:.2?}, all within {longest:.2?}; control: taken once the first has ended",
        paths.len()
    ))
}
