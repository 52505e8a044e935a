//! A git server over HTTP: `git http-backend` behind a small server, and repositories made with git itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A server that lives as long as this value.
pub(crate) struct Forge {
    folder: TempDir,
    requests: Arc<AtomicUsize>,
    _runtime: Runtime,
    pub(crate) port: u16,
}

#[derive(Clone)]
struct Served {
    root: PathBuf,
    requests: Arc<AtomicUsize>,
}

impl Forge {
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let requests = Arc::new(AtomicUsize::new(0));
        let served = Served {
            root: folder.path().to_owned(),
            requests: Arc::clone(&requests),
        };
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let router = Router::new().fallback(serve).with_state(served);
        runtime.spawn(async move { axum::serve(listener, router.into_make_service()).await });
        Self {
            folder,
            requests,
            _runtime: runtime,
            port,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// `git/…` serves; `private/…` asks for a login; `renamed/…` and `elsewhere/PORT/…` redirect; others are no git server.
async fn serve(State(served): State<Served>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    served.requests.fetch_add(1, Ordering::SeqCst);
    let query = uri.query().unwrap_or_default().to_owned();
    let (kind, rest) = uri.path().trim_start_matches('/').split_once('/').unwrap_or_default();
    let login = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let known = ["Bearer token", "Basic YWxpY2U6c2VjcmV0"].contains(&login);
    match kind {
        "private" if !known => StatusCode::UNAUTHORIZED.into_response(),
        "git" | "private" => {
            let rest = rest.to_owned();
            tokio::task::spawn_blocking(move || backend(&served.root, &method, (&rest, &query), &headers, &body))
                .await
                .expect("an answer")
        }
        "renamed" if method == Method::GET && known => {
            (StatusCode::FOUND, [(LOCATION, format!("/private/{rest}?{query}"))]).into_response()
        }
        "elsewhere" => {
            let (port, rest) = rest.split_once('/').unwrap_or_default();
            (
                StatusCode::FOUND,
                [(LOCATION, format!("http://127.0.0.1:{port}/{rest}?{query}"))],
            )
                .into_response()
        }
        "page" => ([(CONTENT_TYPE, "text/html")], "<html>log in</html>").into_response(),
        "broken" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn backend(root: &Path, method: &Method, (path, query): (&str, &str), headers: &HeaderMap, body: &[u8]) -> Response {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", format!("/{path}"))
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method.as_str())
        .env("CONTENT_TYPE", kind)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git http-backend");
    let mut input = child.stdin.take().expect("a pipe");
    let sent = body.to_vec();
    let writer = std::thread::spawn(move || drop(input.write_all(&sent)));
    let output = child.wait_with_output().expect("an answer").stdout;
    drop(writer.join());
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let (head, body) = output.split_at(end);
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(head).lines() {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        response = match name {
            "Status" => response.status(value.get(..3).unwrap_or("500")),
            name => response.header(name, value),
        };
    }
    response
        .body(body.get(4..).unwrap_or_default().to_vec().into())
        .expect("a response")
}

/// A repository on the server and the folder that is pushed to it.
pub(crate) struct Repository {
    work: TempDir,
    bare: PathBuf,
    url: String,
}

impl Repository {
    pub(crate) fn new(forge: &Forge, name: &str) -> Self {
        let bare = forge.folder.path().join(format!("{name}.git"));
        let repository = Self {
            work: TempDir::new().expect("a folder"),
            url: forge.url(&format!("git/{name}.git")),
            bare,
        };
        let bare = repository.bare.display().to_string();
        repository.git(&["init", "--quiet", "--bare", "--initial-branch=main", &bare]);
        // Packs stay as they were pushed.
        repository.git(&["--git-dir", &bare, "config", "receive.unpackLimit", "1"]);
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository.git(&["remote", "add", "origin", &bare]);
        repository
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.work.path()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.folder().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    /// Commits what has changed, pushes, and gives the tip.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        if !self.git(&["status", "--porcelain"]).is_empty() {
            self.git(&["commit", "--quiet", "--message", message]);
        }
        self.push();
        self.git(&["rev-parse", "HEAD"])
    }

    pub(crate) fn push(&self) {
        self.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);
    }

    pub(crate) fn hash(&self, text: &str) -> String {
        self.run(&["hash-object", "-w", "--stdin"], text)
    }

    pub(crate) fn mktree(&self, listing: &str) -> String {
        self.run(&["mktree", "--missing"], listing)
    }

    /// Pushes a commit of this tree.
    pub(crate) fn commit_tree(&self, tree: &str) -> String {
        let commit = self.git(&["commit-tree", tree, "-m", "Crafted"]);
        self.git(&[
            "push",
            "--quiet",
            "--force",
            "origin",
            &format!("{commit}:refs/heads/main"),
        ]);
        commit
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        self.run(arguments, "")
    }

    fn run(&self, arguments: &[&str], input: &str) -> String {
        let identity = ["user.name=Alice", "user.email=alice@example.com", "gc.auto=0"]
            .map(|it| ["-c", it])
            .concat();
        let mut child = Command::new("git")
            .current_dir(self.folder())
            .args(identity)
            .args(arguments)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", self.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git");
        child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(input.as_bytes())
            .expect("input");
        let output = child.wait_with_output().expect("output");
        assert!(output.status.success(), "git {arguments:?}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

/// A session that prompts for `prompt`.
pub(crate) fn session(name: &str, prompt: &str) -> String {
    format!(
        "apiVersion: berth.dev/v1alpha1\nkind: AgentSession\nmetadata:\n  name: {name}\nspec:\n  poolRef:\n    name: p\n  task:\n    prompt: \"{prompt}\"\n"
    )
}
