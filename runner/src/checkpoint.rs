//! Checkpoints: what another pod needs to go on, taken while the harness works and restored before it starts.
//!
//! [`gather`] names the files, [`archive`] writes them as the same bytes every time, [`cut`] cuts those by their content,
//! [`take`] exchanges the pieces with the controller and [`restore`] does it the other way round. An archive is two tar
//! files, one after the other: the program's own files below the agent's home, then the workspace.

pub mod archive;
pub mod cut;
pub mod gather;
pub mod keep;
pub mod restore;
pub mod sqlite;
pub mod take;

#[cfg(test)]
mod tests;
