//! The suite of caused faults: whatever happens to the disk, the files, the clock and the processes, nothing acknowledged is lost,
//! and every order ends.
//!
//! `cargo test --test faults` runs a few rounds of what is quick, `FAULT_ROUNDS=ci` all of it in four minutes, as CI does, and
//! `FAULT_ROUNDS=full` every round that was promised, in some half an hour. `runner` runs the tests and says what was skipped and why, `means` finds out
//! what this machine can cause, `load` are the clients and what they were told, `trace` reads system calls, `mounts` are file
//! systems of the test's own. Each other room is one kind of fault. Where one is possible, a test begins or ends with a control:
//! something that breaks the promise on purpose, which the same check must see.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report, also in its helpers")]
#![allow(clippy::print_stdout, reason = "this is a test runner, and its output is the report")]

#[allow(dead_code, unused_imports, reason = "the other target uses the rest")]
#[path = "../it"]
mod it {
    pub mod harness;
}

mod bits;
mod clock;
mod commands;
mod disks;
mod errors;
mod files;
mod kills;
mod limits;
mod load;
mod means;
mod mixed;
mod mounts;
mod owners;
mod parsers;
mod power;
mod runner;
mod syncs;
mod trace;

use it::harness;

use runner::{Outcome, Test};

/// A test under its name.
macro_rules! tests {
    ($($room:ident :: $name:ident),* $(,)?) => {
        &[$(Test { name: stringify!($name), run: $room::$name as fn() -> Outcome }),*]
    };
}

/// In the order in which they are run. The longest come first, as two run at a time.
const TESTS: &[Test] = tests![
    mixed::everything_at_once_loses_nothing_and_leaves_nothing_behind,
    kills::kill_9_of_worker_parent_or_both_loses_and_doubles_nothing,
    kills::a_kill_at_any_write_of_the_log_loses_and_doubles_nothing,
    power::a_power_loss_takes_no_acknowledged_order,
    power::a_disk_that_dies_under_load_is_followed_by_no_200_without_a_sync,
    power::a_power_loss_after_a_failed_sync_takes_no_acknowledged_order,
    syncs::no_order_is_acknowledged_without_a_sync_between_request_and_answer,
    syncs::what_a_dead_worker_left_unsynced_is_synced_before_it_is_acknowledged,
    errors::a_sync_that_fails_is_never_followed_by_a_200,
    errors::a_write_that_fails_is_never_followed_by_a_200,
    errors::a_checkpoint_that_fails_is_told_and_made_up_for,
    disks::service_and_processing_are_back_when_a_full_disk_has_room_again,
    disks::service_and_processing_are_back_when_a_quota_has_room_again,
    disks::service_and_processing_are_back_when_a_read_only_disk_is_writable_again,
    disks::a_backup_that_runs_out_of_room_leaves_no_file_and_the_server_goes_on,
    disks::a_disk_that_the_kernel_has_made_read_only_loses_nothing,
    disks::a_limit_on_the_size_of_files_loses_nothing_and_holds_only_as_long_as_it_lasts,
    files::a_file_or_folder_that_was_pulled_away_under_load_is_there_again_when_put_back,
    files::a_file_or_folder_that_was_pulled_away_before_a_start_is_there_again_when_put_back,
    bits::a_flipped_bit_in_the_log_costs_no_order_in_silence,
    owners::a_second_orderd_is_refused_by_whatever_path,
    clock::a_clock_set_years_forth_and_back_changes_no_wait,
    commands::an_order_whose_command_brings_everything_down_fails_after_its_attempts,
    limits::a_small_memory_few_descriptors_and_few_processes_lose_nothing,
    parsers::mutated_bodies_are_refused_or_given_back_equal,
    parsers::mutated_requests_are_answered_and_leave_the_server_whole,
];

fn main() -> std::process::ExitCode {
    mounts::in_own_namespace();
    runner::run(TESTS)
}
