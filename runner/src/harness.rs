//! Pure: an assignment → the process that serves it, and its lines → what it tells. One file per kind of harness; a new
//! one is a file with a [`Harness`], a recording of what the real program prints, and a test over that.
//!
//! What comes out holds configuration only. It never looks at the runner's own environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_protocol::handoff::Assignment;
use berth_protocol::told::Told;
use clap::ValueEnum;

mod claude_code;
mod codex;
mod custom;
mod hermes;
mod open_code;

/// Which agent program it is; `kebab-case` on the command line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Kind {
    /// Anthropic's Claude Code.
    ClaudeCode,
    /// OpenAI's Codex.
    Codex,
    /// Hermes.
    Hermes,
    /// opencode.
    #[value(name = "opencode")]
    OpenCode,
    /// Any program that reads the prompt from standard input.
    #[default]
    Custom,
}

/// A process to start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Launch {
    /// Program and arguments; empty when neither the assignment nor the container names a program.
    pub command: Vec<String>,
    /// Set beside the container's own environment, over it.
    pub env: BTreeMap<String, String>,
    /// Written to standard input, which is then closed.
    pub input: String,
    /// Written before it starts: the program's own settings, without a secret.
    pub files: Vec<(PathBuf, String)>,
}

/// What a harness is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// Of the session.
    pub assignment: &'a Assignment,
    /// The container's own command.
    pub fallback: &'a [String],
    /// Home of the agent's user, where programs keep their files.
    pub home: &'a Path,
    /// Directory that it works in.
    pub workspace: &'a Path,
    /// The program's id of the conversation to go on with ([`Told::Session`]); a new one when `None`.
    pub resume: Option<&'a str>,
    /// What it is told to do.
    pub prompt: &'a str,
}

/// A task can't be given to this program; says why to the author.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LaunchError {
    /// The program has no model of its own.
    #[error("{0} needs a model: set spec.model of the AgentSession")]
    NoModel(&'static str),
    /// Its prompt may have been worked on already, and nothing says how far.
    #[error("the checkpoint has no conversation of {0} to go on with; set a new task.runID to run the task again")]
    NoConversation(&'static str),
    /// The program takes its prompt as an argument, and the kernel takes none longer.
    #[error("{program} takes a prompt of at most {most} bytes")]
    LongPrompt {
        /// Which.
        program: &'static str,
        /// How much it takes.
        most: usize,
    },
}

/// What is different between agent programs.
trait Harness {
    /// The process for a task, without what [`environment`] says for all of them.
    fn launch(&self, task: Task<'_>) -> Result<Launch, LaunchError>;
    /// Reads its standard output from the first line on; `None` when it has no language of its own.
    fn reader(&self) -> Option<Box<dyn Reader>>;
    /// What of its files another pod needs to go on.
    fn keeps(&self) -> &'static [Kept];
    /// Stands for the newest conversation in its files, where it doesn't tell an id while it works.
    fn newest(&self) -> Option<&'static str> {
        None
    }
}

/// Reads what a program prints.
pub trait Reader: Send {
    /// What a line tells; nothing when it isn't the program's language.
    fn line(&mut self, line: &str) -> Vec<Told>;
    /// What its end tells.
    fn end(&mut self) -> Vec<Told> {
        vec![]
    }
}

/// Files of a program, below the agent's home.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kept {
    /// Lines that are only ever appended, in files below this folder with this ending.
    Lines(&'static str, &'static str),
    /// An SQLite database, which has to be copied by its backup API.
    Sqlite(&'static str),
}

impl Kind {
    fn harness(self) -> &'static dyn Harness {
        match self {
            Self::ClaudeCode => &claude_code::ClaudeCode,
            Self::Codex => &codex::Codex,
            Self::Hermes => &hermes::Hermes,
            Self::OpenCode => &open_code::OpenCode,
            Self::Custom => &custom::Custom,
        }
    }

    /// What to start for a task. The pool's command, or the assignment's, replaces the program's own.
    pub fn launch(self, task: Task<'_>) -> Result<Launch, LaunchError> {
        let goes_on = task.assignment.restore.is_some();
        if goes_on && task.resume.is_none() && !self.keeps().is_empty() {
            return Err(LaunchError::NoConversation(self.name()));
        }
        let launch = self.harness().launch(task)?;
        let common = environment(task.assignment, task.workspace);
        let mut env = launch.env;
        env.extend(common);
        Ok(Launch { env, ..launch })
    }

    fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code",
            Self::Codex => "Codex",
            Self::Hermes => "Hermes",
            Self::OpenCode => "opencode",
            Self::Custom => "the command",
        }
    }

    /// Reads what the program prints; `None` when nothing is known of it.
    pub fn reader(self) -> Option<Box<dyn Reader>> {
        self.harness().reader()
    }

    /// What of the program's files another pod needs to go on.
    pub fn keeps(self) -> &'static [Kept] {
        self.harness().keeps()
    }

    /// Stands for the newest conversation in its files, where it doesn't tell an id while it works.
    pub fn newest(self) -> Option<&'static str> {
        self.harness().newest()
    }
}

impl<'a> Task<'a> {
    /// The author's program with its first arguments, else this one.
    fn program(&self, name: &str) -> Vec<String> {
        let Self {
            assignment, fallback, ..
        } = self;
        let named = [assignment.command.as_slice(), fallback];
        let named = named.into_iter().find(|command| !command.is_empty());
        named.map_or_else(|| vec![name.to_owned()], <[String]>::to_vec)
    }

    fn model(&self) -> Option<&'a str> {
        Some(self.assignment.model.as_str()).filter(|model| !model.is_empty())
    }

    /// The OpenAI-shaped service that the author names, without a slash at its end.
    fn openai_url(&self) -> &'a str {
        let named = self.assignment.env.get("OPENAI_BASE_URL").map(String::as_str);
        named.unwrap_or("https://api.openai.com/v1").trim_end_matches('/')
    }
}

/// What a program is told that goes on in another pod. It has the task and all of its work so far in its conversation; one
/// that keeps no conversation gets the task again, and `BERTH_RESUMED_FROM` says so.
pub fn resumed(assignment: &Assignment) -> String {
    let Some(restore) = assignment
        .restore
        .as_ref()
        .filter(|restore| !restore.conversation.is_empty())
    else {
        return assignment.prompt.clone();
    };
    let missing = match restore.missing.as_slice() {
        [] => String::new(),
        names => format!(" These files were left out: {}.", names.join(", ")),
    };
    format!("{RESUMED}{missing} Go on with your task.")
}

/// Variables of whatever is started for the session: the author's, and over them what Berth itself says.
pub fn environment(assignment: &Assignment, workspace: &Path) -> BTreeMap<String, String> {
    let mut env = assignment.env.clone();
    if !env.contains_key("GIT_CONFIG_COUNT") {
        env.extend(git_config(assignment, workspace));
    }
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    set("BERTH_SESSION", &assignment.name);
    set("BERTH_NAMESPACE", &assignment.namespace);
    set("BERTH_INCARNATION", &assignment.incarnation.to_string());
    if let Some(restore) = &assignment.restore {
        set(
            "BERTH_RESUMED_FROM",
            &format!("{}/{}", restore.incarnation, restore.number),
        );
    }
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

/// The workspace is a volume, whose owner is root: git works in it only where it is told that it may. The stub for the
/// session's repository comes from its variable, when git asks for it; who commits, the author may say in `GIT_AUTHOR_NAME`
/// and its like.
fn git_config(assignment: &Assignment, workspace: &Path) -> BTreeMap<String, String> {
    let Assignment { namespace, name, .. } = assignment;
    let mut settings = vec![
        ("safe.directory".to_owned(), workspace.display().to_string()),
        ("user.name".to_owned(), name.clone()),
        (
            "user.email".to_owned(),
            format!("{name}@{namespace}.sessions.berth.dev"),
        ),
    ];
    if let Some(repository) = assignment.repository.as_ref().filter(|it| !it.credential.is_empty()) {
        let helper = format!(
            "!f() {{ test \"$1\" != get || printf 'username=agent\\npassword=%s\\n' \"${}\"; }}; f",
            repository.credential
        );
        settings.push((format!("credential.{}.helper", origin(&repository.url)), helper));
    }
    let mut env = variables([("GIT_CONFIG_COUNT", &settings.len().to_string())]);
    for (number, (key, value)) in settings.into_iter().enumerate() {
        env.insert(format!("GIT_CONFIG_KEY_{number}"), key);
        env.insert(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    env
}

/// Scheme, host and port of a URL: git compares them with those that it asks for.
fn origin(url: &str) -> &str {
    let after = url.find("://").map_or(0, |at| at + 3);
    let end = url.get(after..).and_then(|rest| rest.find('/'));
    end.and_then(|end| url.get(..after + end)).unwrap_or(url)
}

fn variables<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect()
}

fn words<const N: usize>(words: [&str; N]) -> impl Iterator<Item = String> {
    words.map(str::to_owned).into_iter()
}

/// Text of a JSON string; other JSON as it is written.
fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A command that was running may have had its effect or not: only the agent can look.
const RESUMED: &str = "The pod that you worked in was lost, and this is a new pod. Your conversation and your working \
    directory were restored from a checkpoint that is some seconds older than the loss. Commands that were running have \
    ended: see what they did before you repeat one.";
/// The sidecar's proxy listener.
pub const PROXY: &str = "http://127.0.0.1:14322";
/// The agent's own servers are its own.
const NO_PROXY: &str = "127.0.0.1,localhost";
/// The variable with the stub of an OpenAI-shaped service's key.
const OPENAI_KEY: &str = "OPENAI_API_KEY";

#[cfg(test)]
mod tests;
