//! Pure: harness `Custom`, a command in the pool's image that reads the prompt from standard input. It knows no
//! interactive mode: such a session runs to completion.

use std::collections::BTreeMap;

use berth_protocol::handoff::Assignment;

use super::Launch;

/// The assignment's command, or the container's.
pub(super) fn launch(assignment: &Assignment, fallback: &[String]) -> Launch {
    let command = if assignment.command.is_empty() {
        fallback
    } else {
        &assignment.command
    };
    Launch {
        command: command.to_vec(),
        env: BTreeMap::new(),
        input: assignment.prompt.clone(),
    }
}
