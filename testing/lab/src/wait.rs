//! Waiting on a condition with a deadline: no sleep that hopes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PERIOD: Duration = Duration::from_millis(20);

/// Asks `condition` every 20 ms until it gives a value, and returns that.
///
/// # Errors
/// After `limit`, naming `what`; at once when `condition` itself fails.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        sleep(PERIOD);
    }
}

/// Asks `condition` every 20 ms until it holds; returns how long that took.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begun = Instant::now();
    wait_for(what, limit, || Ok(condition()?.then(|| begun.elapsed())))
}
