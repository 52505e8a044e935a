//! Pure: harness `Custom`, a command in the pool's image that reads the prompt from standard input. Nothing is known of
//! what it prints or keeps.

use super::{Harness, Kept, Launch, LaunchError, Reader, Task};

pub(super) struct Custom;

impl Harness for Custom {
    /// The assignment's command, or the container's.
    fn launch(&self, task: Task<'_>) -> Result<Launch, LaunchError> {
        let command = if task.assignment.command.is_empty() {
            task.fallback
        } else {
            &task.assignment.command
        };
        Ok(Launch {
            command: command.to_vec(),
            input: task.prompt.to_owned(),
            ..Launch::default()
        })
    }

    fn reader(&self) -> Option<Box<dyn Reader>> {
        None
    }

    fn keeps(&self) -> &'static [Kept] {
        &[]
    }
}
