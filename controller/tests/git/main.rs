#![cfg(test)]
//! The child `berth-controller fetch` against a real git server: `git http-backend` behind a few lines of HTTP, with
//! repositories made by git's plumbing, honest and crafted.

mod check;
mod evidence;
mod forge;

use std::path::Path;
use std::time::{Duration, Instant};

use berth_controller::git::declared::{Declarations, Declared};
use berth_controller::git::fetch::{self, FetchError};
use berth_controller::git::wire::{Login, Request, Tip};
use forge::{Forge, Repository, session};
use tempfile::TempDir;

/// One source: its clone and what the caller holds.
struct Source {
    cache: TempDir,
    request: Request,
}

impl Source {
    fn of(url: String) -> Self {
        let cache = TempDir::new().expect("a folder");
        let folder = cache.path().join("clone");
        let request = Request {
            url,
            branch: "main".into(),
            namespace: "team".into(),
            folder,
            networks: vec!["127.0.0.0/8".parse().expect("a network")],
            ..Request::default()
        };
        Self { cache, request }
    }

    fn fetch(&self) -> Result<Tip, FetchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(fetch::fetch(
            Path::new(env!("CARGO_BIN_EXE_berth-controller")),
            &self.request,
        ))
    }

    fn tip(&self) -> Tip {
        self.fetch().expect("a tip")
    }

    fn refused(&self) -> String {
        self.fetch().expect_err("a refusal").to_string()
    }

    fn hold(&mut self, tip: &Tip) {
        self.request.held = Some(tip.commit.clone());
        self.request.before = Some(tip.commit.clone());
    }
}

fn declared(tip: &Tip) -> &Declarations {
    tip.declarations.as_ref().expect("declarations")
}

fn object<'a>(tip: &'a Tip, name: &str) -> &'a Declared {
    declared(tip)
        .objects
        .iter()
        .find(|object| object.key.name == name)
        .expect("an object")
}

fn errors(tip: &Tip) -> Vec<String> {
    declared(tip)
        .errors
        .iter()
        .map(|error| format!("{} {}", error.at, error.message))
        .collect()
}

#[test]
fn a_tip_is_read_with_the_commit_that_changed_each_document_last() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    repository.write(
        "agents/both.yaml",
        &format!("{}---\n{}", session("one", "1"), session("two", "1")),
    );
    let first = repository.commit("Add two");
    repository.write(
        "agents/both.yaml",
        &format!("{}---\n{}", session("one", "1"), session("two", "2")),
    );
    let second = repository.commit("Change the second");
    repository.write(
        "agents/both.yaml",
        &format!("# moved down\n{}---\n{}", session("one", "1"), session("two", "2")),
    );
    repository.write("README.md", "words: [\n");
    repository.commit("Change words alone");
    let tip = Source::of(repository.url()).tip();
    assert_eq!(object(&tip, "one").commit, first);
    assert_eq!(object(&tip, "two").commit, second);
    assert_eq!(object(&tip, "two").author, "Alice <alice@example.com>");
    assert_eq!(object(&tip, "two").at, "agents/both.yaml:12:1");
    assert_eq!(errors(&tip), Vec::<String>::new());
}

#[test]
fn a_merge_counts_as_the_change_that_it_brought() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    repository.write("s.yaml", &session("s", "1"));
    repository.commit("Add");
    repository.git(&["checkout", "--quiet", "-b", "topic"]);
    repository.write("s.yaml", &session("s", "2"));
    repository.commit("Change");
    repository.git(&["checkout", "--quiet", "main"]);
    repository.git(&["merge", "--quiet", "--no-ff", "--message", "Merge", "topic"]);
    let merge = repository.commit("Nothing");
    assert_eq!(object(&Source::of(repository.url()).tip(), "s").commit, merge);
}

#[test]
fn an_unchanged_tip_costs_one_request_and_sends_nothing_again() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    repository.write("s.yaml", &session("s", "1"));
    repository.commit("Add");
    let mut source = Source::of(repository.url());
    let tip = source.tip();
    source.hold(&tip);
    let before = forge.requests();
    let again = source.tip();
    assert_eq!(
        (forge.requests() - before, again.commit, again.declarations.is_none()),
        (1, tip.commit, true)
    );
}

#[test]
fn what_has_not_changed_since_the_held_tip_is_left_to_the_caller() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    repository.write("old.yaml", &session("old", "1"));
    let first = repository.commit("Add");
    let mut source = Source::of(repository.url());
    let tip = source.tip();
    let held = declared(&tip).clone();
    source.hold(&tip);
    repository.write("new.yaml", &session("new", "1"));
    let second = repository.commit("Add another");
    let tip = source.tip();
    assert_eq!(
        (object(&tip, "old").commit.as_str(), object(&tip, "new").commit.as_str()),
        ("", second.as_str())
    );
    let mut merged = declared(&tip).clone();
    merged.inherit(Some(&held), &second);
    let commits: Vec<&str> = merged.objects.iter().map(|object| object.commit.as_str()).collect();
    assert_eq!(commits, [second.as_str(), first.as_str()]);
    assert!(!tip.rewound);
}

#[test]
fn a_rewound_branch_is_fetched_and_said() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    repository.write("s.yaml", &session("s", "1"));
    let first = repository.commit("Add");
    repository.write("s.yaml", &session("s", "2"));
    repository.commit("Change");
    let mut source = Source::of(repository.url());
    let tip = source.tip();
    source.hold(&tip);
    repository.git(&["reset", "--quiet", "--hard", &first]);
    repository.push();
    let back = source.tip();
    assert_eq!((back.commit, back.rewound), (first, true));
}

#[test]
fn only_what_the_globs_name_is_read() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    for path in [
        "a.yaml",
        "agents/b.yml",
        "agents/deep/c.json",
        "agents/out/d.yaml",
        "agents/notes.md",
    ] {
        repository.write(
            path,
            &session(&path[path.len() - 6..path.len() - 5].replace('/', "x"), "1"),
        );
    }
    repository.commit("Add");
    let mut source = Source::of(repository.url());
    let paths = |tip: &Tip| {
        declared(tip)
            .objects
            .iter()
            .map(|object| object.path.clone())
            .collect::<Vec<_>>()
    };
    source.request.include = vec!["agents/**".into()];
    source.request.exclude = vec!["agents/out/**".into()];
    assert_eq!(paths(&source.tip()), ["agents/b.yml", "agents/deep/c.json"]);
    source.request.include = vec!["agents/[".into()];
    assert!(source.refused().contains("spec.include"), "{}", source.refused());
}

#[test]
fn a_login_is_sent_and_a_wrong_one_said() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    repository.write("s.yaml", &session("s", "1"));
    repository.commit("Add");
    let mut source = Source::of(forge.url("private/a.git"));
    assert!(
        source.refused().contains("401") && source.refused().contains("spec.secretRef"),
        "{}",
        source.refused()
    );
    source.request.login = Login::Basic {
        username: "alice".into(),
        password: "secret".into(),
    };
    source.tip();
    source.request.login = Login::Bearer("token".into());
    source.tip();
}

#[test]
fn a_redirect_within_the_host_is_followed_and_one_to_another_is_not() {
    let forge = Forge::start();
    let other = Forge::start();
    let repository = Repository::new(&forge, "a");
    repository.write("s.yaml", &session("s", "1"));
    repository.commit("Add");
    let mut source = Source::of(forge.url("renamed/a.git"));
    source.request.login = Login::Bearer("token".into());
    source.tip();
    let mut source = Source::of(forge.url(&format!("elsewhere/{}/git/a.git", other.port)));
    source.request.login = Login::Bearer("token".into());
    assert!(
        source.refused().contains("redirects to another host"),
        "{}",
        source.refused()
    );
    assert_eq!(other.requests(), 0, "the other host never hears of it");
}

#[test]
fn what_is_no_git_server_is_said_plainly() {
    let forge = Forge::start();
    for (path, words) in [
        ("page/a.git", "doesn't speak git"),
        ("missing/a.git", "404"),
        ("broken/a.git", "500"),
    ] {
        let said = Source::of(forge.url(path)).refused();
        assert!(
            said.contains(words) || said.contains("knows no such repository"),
            "{path}: {said}"
        );
    }
    assert!(
        Source::of("http://127.0.0.1:1/a.git".into())
            .refused()
            .contains("refused")
    );
}

#[test]
fn a_url_that_could_be_an_option_starts_nothing() {
    let made = std::env::temp_dir().join(format!("berth-option-{}", std::process::id()));
    for url in [
        "--upload-pack=touch".to_owned(),
        format!("ext::sh -c touch% {}", made.display()),
        "https://-oProxyCommand=touch/a.git".to_owned(),
        "file:///etc".to_owned(),
        "/etc".to_owned(),
        "git://127.0.0.1/a.git".to_owned(),
        "ssh://git@127.0.0.1/a.git".to_owned(),
        "http://alice:secret@127.0.0.1/a.git".to_owned(),
    ] {
        let source = Source::of(url.clone());
        let said = source.refused();
        assert!(!said.contains("secret@"), "{said}");
        assert!(!source.request.folder.exists(), "{url}: {said}");
    }
    assert!(!made.exists());
    let branch = |branch: &str| {
        let forge = Forge::start();
        let repository = Repository::new(&forge, "a");
        repository.write("s.yaml", &session("s", "1"));
        repository.commit("Add");
        let mut source = Source::of(repository.url());
        source.request.branch = branch.to_owned();
        source.refused()
    };
    assert!(branch("--upload-pack=touch").contains("no branch"));
    assert!(branch("nowhere").contains("no branch nowhere"));
}

#[test]
fn links_submodules_and_odd_names_are_refused_one_by_one() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    repository.write("good.yaml", &session("good", "1"));
    repository.write("large.yaml", &format!("# {}", "x".repeat(1 << 20)));
    repository.write("latin.yaml", "");
    std::fs::write(repository.folder().join("latin.yaml"), [0xe9, b'\n']).expect("a file");
    std::os::unix::fs::symlink("/etc/passwd", repository.folder().join("link.yaml")).expect("a link");
    let commit = repository.commit("Add odd files");
    let tree = repository.git(&["rev-parse", "HEAD^{tree}"]);
    let listing = format!(
        "{}\n160000 commit {commit}\tmodule.yaml\n",
        repository.git(&["ls-tree", &tree])
    );
    repository.commit_tree(&repository.mktree(&listing));
    let tip = Source::of(repository.url()).tip();
    assert_eq!(declared(&tip).objects.len(), 1);
    let found = errors(&tip);
    for (at, words) in [
        ("large.yaml:1:1 ", "1048576"),
        ("latin.yaml:1:1 ", "UTF-8"),
        ("link.yaml:1:1 ", "symbolic links"),
        ("module.yaml:1:1 ", "submodules"),
    ] {
        assert!(
            found.iter().any(|error| error.starts_with(at) && error.contains(words)),
            "{at}: {found:?}"
        );
        assert!(
            declared(&tip)
                .unreadable
                .contains(at.split(':').next().expect("a path"))
        );
    }
}

#[test]
fn a_tree_of_too_many_files_is_refused_whole() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    let blob = repository.hash("x");
    let lines: Vec<String> = (0..60_000)
        .map(|number| format!("100644 blob {blob}\tf{number:05}.yaml\n"))
        .collect();
    repository.commit_tree(&repository.mktree(&lines.concat()));
    let said = Source::of(repository.url()).refused();
    assert!(said.contains("50000"), "{said}");
}

#[test]
fn folders_that_multiply_are_refused_whole() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    let blob = repository.hash("x");
    let mut tree = repository.mktree(&format!("100644 blob {blob}\tf.yaml\n"));
    for _ in 0..20 {
        let lines: Vec<String> = (0..10)
            .map(|number| format!("040000 tree {tree}\td{number}\n"))
            .collect();
        tree = repository.mktree(&lines.concat());
    }
    repository.commit_tree(&tree);
    let began = Instant::now();
    let said = Source::of(repository.url()).refused();
    assert!(
        said.contains("50000") && began.elapsed() < Duration::from_secs(20),
        "{said}"
    );
}

#[test]
fn a_bomb_of_aliases_stays_an_error_of_its_file() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    let head = session("bomb", "1");
    for number in 0..16 {
        let text = format!(
            "{head}  a: &a \"{}\"\n  b: [{}]\n",
            "x".repeat(500_000),
            ["*a"; 95].join(",")
        );
        repository.write(&format!("bomb{number}.yaml"), &text);
    }
    repository.write("good.yaml", &session("good", "1"));
    repository.commit("Add bombs");
    let tip = Source::of(repository.url()).tip();
    assert_eq!(declared(&tip).objects.len(), 1);
    assert_eq!(declared(&tip).errors.len(), 16, "{:?}", errors(&tip));
}

#[test]
fn a_bomb_of_deltas_ends_its_own_child_alone() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    for (name, size) in [("one", 120 << 20), ("two", (120 << 20) + 1)] {
        let file = std::fs::File::create(repository.folder().join(name)).expect("a file");
        file.set_len(size).expect("a length");
    }
    repository.git(&["add", "--all"]);
    repository.git(&["commit", "--quiet", "--message", "Add zeros"]);
    repository.git(&["repack", "-adfq", "--window=2"]);
    repository.push();
    let began = Instant::now();
    let said = Source::of(repository.url()).refused();
    assert!(began.elapsed() < Duration::from_mins(1), "{said}");
    assert!(said.contains("memory"), "{said}");
}

#[test]
fn what_an_interrupted_fetch_left_is_swept_and_a_broken_clone_made_anew() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "a");
    repository.write("s.yaml", &session("s", "1"));
    repository.commit("Add");
    let source = Source::of(repository.url());
    source.tip();
    let packs = source.request.folder.join("objects/pack");
    let left = packs.join("pack_git2_a1b2c3");
    std::fs::write(&left, "half a pack").expect("a file");
    source.tip();
    assert!(!left.exists());
    std::fs::write(source.request.folder.join("HEAD"), "nonsense").expect("a file");
    source.tip();
    assert!(source.cache.path().exists());
}
