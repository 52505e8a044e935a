//! The startup probe's file: there while the control stream is attached, so that warm means warm.

use std::path::{Path, PathBuf};

/// Sets and clears the file.
#[derive(Clone, Debug)]
pub struct Ready {
    path: PathBuf,
}

impl Ready {
    /// Not attached yet, whatever an earlier process left.
    pub fn begin(state: &Path) -> Self {
        let ready = Self { path: state.join(FILE) };
        ready.clear();
        ready
    }

    /// The stream is attached.
    pub fn set(&self) {
        if let Err(error) = std::fs::write(&self.path, b"") {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the probe's file can't be written"
            );
        }
    }

    /// The stream has gone.
    pub fn clear(&self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the probe's file can't be removed"
                );
            }
            _ => {}
        }
    }
}

/// Whether a sidecar with this state directory has its stream.
pub fn is_attached(state: &Path) -> bool {
    state.join(FILE).exists()
}

const FILE: &str = "ready";
