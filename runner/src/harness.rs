//! Pure: an assignment → the process that serves it. One file per kind of harness; each gives a [`Launch`].
//!
//! What comes out holds configuration only. It never looks at the runner's own environment.

use std::collections::BTreeMap;

use berth_protocol::handoff::Assignment;

mod custom;

/// A process to start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Launch {
    /// Program and arguments; empty when neither the assignment nor the container names a program.
    pub command: Vec<String>,
    /// Set beside the container's own environment, over it.
    pub env: BTreeMap<String, String>,
    /// Written to standard input, which is then closed.
    pub input: String,
}

/// What to start for an assignment. `fallback` is the container's own command.
pub fn launch(assignment: &Assignment, fallback: &[String]) -> Launch {
    Launch {
        env: environment(assignment),
        ..custom::launch(assignment, fallback)
    }
}

/// The author's configuration, then what Berth itself says: the latter wins.
fn environment(assignment: &Assignment) -> BTreeMap<String, String> {
    let mut env = assignment.env.clone();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    set("BERTH_SESSION", &assignment.name);
    set("BERTH_NAMESPACE", &assignment.namespace);
    set("BERTH_INCARNATION", &assignment.incarnation.to_string());
    if !assignment.model.is_empty() {
        set("BERTH_MODEL", &assignment.model);
    }
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
        set(name, PROXY);
    }
    for name in ["NO_PROXY", "no_proxy"] {
        set(name, NO_PROXY);
    }
    env
}

/// The sidecar's proxy listener.
const PROXY: &str = "http://127.0.0.1:14322";
/// The agent's own servers are its own.
const NO_PROXY: &str = "127.0.0.1,localhost";

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment() -> Assignment {
        let env = [
            ("COLOUR", "blue"),
            ("HTTPS_PROXY", "http://elsewhere"),
            ("BERTH_SESSION", "another"),
        ];
        Assignment {
            namespace: "team".to_owned(),
            name: "fix".to_owned(),
            incarnation: 2,
            prompt: "Fix it.".to_owned(),
            env: env
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            ..Assignment::default()
        }
    }

    #[test]
    fn what_berth_says_wins_over_the_author() {
        let launch = launch(&assignment(), &["sh".to_owned()]);
        let lines: Vec<String> = launch
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let expected = [
            "BERTH_INCARNATION=2",
            "BERTH_NAMESPACE=team",
            "BERTH_SESSION=fix",
            "COLOUR=blue",
            "HTTPS_PROXY=http://127.0.0.1:14322",
            "HTTP_PROXY=http://127.0.0.1:14322",
            "NO_PROXY=127.0.0.1,localhost",
            "http_proxy=http://127.0.0.1:14322",
            "https_proxy=http://127.0.0.1:14322",
            "no_proxy=127.0.0.1,localhost",
        ];
        assert_eq!(lines, expected);
        assert_eq!(
            (launch.command, launch.input.as_str()),
            (vec!["sh".to_owned()], "Fix it.")
        );
    }

    #[test]
    fn the_assignment_may_name_command_and_model() {
        let command = vec!["agent".to_owned(), "--yes".to_owned()];
        let assignment = Assignment {
            command: command.clone(),
            model: "large".to_owned(),
            ..assignment()
        };
        let launch = launch(&assignment, &["sh".to_owned()]);
        assert_eq!(launch.command, command);
        assert_eq!(launch.env["BERTH_MODEL"], "large");
    }
}
