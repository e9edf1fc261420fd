//! Which tests are left out of a quick run: those that take long because they wait for quiet spells, kill again and again, or
//! need many rows.
//!
//! They run when `CI` or `RUN_SLOW_TESTS` is set. The test target `slow`, which runs last, says how many were left out: it counts
//! the calls of [`left_out`] in the sources, so a slow test calls it in its first line, and once.

/// Whether a slow test has nothing to do in this run.
pub fn left_out() -> bool {
    !is_slow_run()
}

/// Whether slow tests run, and others may take longer.
pub fn is_slow_run() -> bool {
    ["CI", "RUN_SLOW_TESTS"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// One of two: for a quick run, and for one in which there is time.
pub fn quick_or_slow<T>(quick: T, slow: T) -> T {
    if is_slow_run() { slow } else { quick }
}
