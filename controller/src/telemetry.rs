//! Sets up the log: standard error, JSON or for people.

use tracing_subscriber::EnvFilter;

use crate::cli::{Log, LogFormat};

/// Starts logging. A filter that can't be read falls back to `info` and is said.
pub fn start(log: &Log) {
    // Watches say themselves what interrupts them, once and with a name.
    let parsed = EnvFilter::try_new(format!("kube_runtime::watcher=error,{}", log.log));
    let wrong = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Pretty => builder.init(),
    }
    if let Some(wrong) = wrong {
        tracing::warn!(filter = log.log, wrong, "BERTH_LOG can't be read; logging info");
    }
}

/// An error with everything that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
