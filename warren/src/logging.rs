//! Logs go to standard error; what is logged can be changed while running.

use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, reload};

/// Changes the filter; an error says what is wrong with it.
pub(crate) type SetFilter = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Starts logging with a filter in `tracing`'s syntax.
///
/// # Errors
/// If the filter can't be read.
pub(crate) fn start(filter: &str) -> anyhow::Result<SetFilter> {
    let (layer, handle) = reload::Layer::new(parse(filter).map_err(|text| anyhow!(text))?);
    let output = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry()
        .with(output.with_filter(layer))
        .try_init()
        .context("logging was started twice")?;
    Ok(Arc::new(move |filter: &str| {
        let filter = parse(filter)?;
        handle.reload(filter).map_err(|error| error.to_string())
    }))
}

/// Checks a filter, and returns it as it was.
///
/// # Errors
/// What a filter looks like.
pub(crate) fn valid(filter: &str) -> Result<String, String> {
    parse(filter).map(|_| filter.to_owned())
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| {
        format!("'{filter}' isn't a log level: use error, warn, info, debug, trace, or e.g. info,warren_mesh=trace ({error})")
    })
}
