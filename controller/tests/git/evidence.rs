//! What the child finds of bindings' evidence: the commit that brought a fingerprint, its author's commit, and what heads
//! of pull requests say.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use berth_controller::git::fetch;
use berth_controller::git::introduced::Introduced;
use berth_controller::git::wire::{Inspect, Inspected, Request};

use super::Source;
use super::forge::{Forge, Repository};

/// A binding `b` for these methods.
fn binding(methods: &str) -> String {
    let route = format!(
        "{{name: r, host: api.example.com, methods: [{methods}], inject: {{header: {{name: authorization}}}}}}"
    );
    format!(
        "apiVersion: berth.dev/v1alpha1\nkind: CredentialBinding\nmetadata:\n  name: b\nspec:\n  \
         credential: {{name: TOKEN, source: {{secretRef: {{name: forge, key: token}}}}}}\n  \
         subjects: {{allSessions: true}}\n  reason: tests\n  routes: [{route}]\n"
    )
}

/// Where the newest tip says that it comes from: what one that has looked before finds, and a new clone as well.
fn introduced(source: &Source) -> Introduced {
    let found = |source: &Source| {
        let declarations = source.tip().declarations.expect("declarations");
        let object = declarations.objects.into_iter().find(|object| object.key.name == "b");
        object.expect("the binding").introduced.expect("where it comes from")
    };
    let known = found(source);
    assert_eq!(
        known,
        found(&Source::of(source.request.url.clone())),
        "an earlier look changes nothing"
    );
    known
}

#[test]
fn a_fingerprint_comes_from_the_commit_since_which_it_never_was_wider() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "since");
    let source = Source::of(repository.url());
    repository.write("b.yaml", &binding("GET, PUT"));
    let first = repository.commit("Add");
    assert_eq!(introduced(&source).commit, first);

    repository.write("README.md", "hello");
    repository.commit("Say hello");
    assert_eq!(introduced(&source).commit, first, "another file");
    repository.write(
        "b.yaml",
        &binding("PUT,GET")
            .replace("tests", "other words")
            .replace("  name: b", "    name: b"),
    );
    repository.commit("Indent");
    assert_eq!(introduced(&source).commit, first, "order, words and space");
    std::fs::remove_file(repository.folder().join("b.yaml")).expect("a file");
    repository.write("agents/moved.yaml", &format!("# moved\n---\n{}", binding("GET, PUT")));
    repository.commit("Move");
    assert_eq!(introduced(&source).commit, first, "another place");
    repository.write("agents/moved.yaml", &binding("GET"));
    repository.commit("Narrow");
    assert_eq!(introduced(&source).commit, first, "a narrowing");
    repository.write("agents/moved.yaml", &binding("GET, PUT"));
    let widened = repository.commit("Widen again");
    assert_eq!(
        introduced(&source).commit,
        widened,
        "what was given up has to be brought again"
    );

    repository.git(&["revert", "--no-edit", "HEAD~1"]);
    repository.write("agents/moved.yaml", "");
    repository.commit("Take it back");
    repository.write("agents/moved.yaml", &binding("GET, PUT"));
    let again = repository.commit("The same again");
    assert_eq!(introduced(&source).commit, again, "its evidence was spent");
}

#[test]
fn an_earlier_look_of_which_nobody_heard_of_the_revert_still_sees_it() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "unseen");
    let source = Source::of(repository.url());
    repository.write("b.yaml", &binding("GET"));
    repository.commit("Add");
    introduced(&source);
    // Both are pushed before the next fetch.
    repository.write("b.yaml", "");
    repository.git(&["commit", "--quiet", "--all", "--message", "Take it back"]);
    repository.write("b.yaml", &binding("GET"));
    let again = repository.commit("The same again");
    assert_eq!(introduced(&source).commit, again);
}

#[test]
fn behind_a_merge_stands_the_authors_commit_with_its_signature() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "merge");
    let source = Source::of(repository.url());
    repository.write("README.md", "hello");
    repository.commit("Begin");
    let key = repository.folder().join(".git/key").display().to_string();
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", &key])
        .status();
    assert!(made.expect("ssh-keygen").success());

    repository.git(&["checkout", "--quiet", "-b", "topic"]);
    repository.write("b.yaml", &binding("GET"));
    repository.git(&["add", "--all"]);
    let signs = ["-c", "gpg.format=ssh", "-c", &format!("user.signingkey={key}")];
    repository.git(&[&signs[..], &["commit", "--quiet", "-S", "--message", "Ask for it"]].concat());
    let authored = repository.git(&["rev-parse", "HEAD"]);
    repository.write("b.yaml", &format!("# why\n{}", binding("GET")));
    repository.git(&["commit", "--quiet", "--all", "--message", "Say why"]);
    repository.git(&["checkout", "--quiet", "main"]);
    repository.git(&["merge", "--quiet", "--no-ff", "--message", "Merge", "topic"]);
    repository.push();
    let merged = repository.git(&["rev-parse", "HEAD"]);

    let found = introduced(&source);
    assert_eq!((&found.commit, &found.line), (&merged, &vec![merged.clone()]));
    assert_eq!(found.authored.commit, authored);
    let signature = found.authored.signature.expect("a signature");
    assert!(
        signature.armored.starts_with("-----BEGIN SSH SIGNATURE-----"),
        "{}",
        signature.armored
    );
}

#[test]
fn what_a_merge_itself_brought_is_nobody_elses() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "evil");
    let source = Source::of(repository.url());
    repository.write("README.md", "hello");
    repository.commit("Begin");
    repository.git(&["checkout", "--quiet", "-b", "topic"]);
    repository.write("b.yaml", &binding("GET"));
    repository.git(&["add", "--all"]);
    repository.git(&["commit", "--quiet", "--message", "Ask for it"]);
    repository.git(&["checkout", "--quiet", "main"]);
    repository.git(&["merge", "--quiet", "--no-ff", "--no-commit", "topic"]);
    repository.write("b.yaml", &binding("GET, DELETE"));
    repository.git(&["add", "--all"]);
    repository.git(&["commit", "--quiet", "--message", "Merge"]);
    repository.push();
    let merged = repository.git(&["rev-parse", "HEAD"]);
    let found = introduced(&source);
    assert_eq!((found.commit, found.authored.commit), (merged.clone(), merged));
}

#[test]
fn of_a_rebase_all_commits_are_named_up_to_the_next_merge() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "rebase");
    repository.write("b.yaml", &binding("GET"));
    let first = repository.commit("First");
    repository.write("README.md", "hello");
    let second = repository.commit("Second");
    repository.git(&["checkout", "--quiet", "-b", "topic"]);
    repository.write("OTHER.md", "hello");
    repository.git(&["add", "--all"]);
    repository.git(&["commit", "--quiet", "--message", "Other"]);
    repository.git(&["checkout", "--quiet", "main"]);
    repository.git(&["merge", "--quiet", "--no-ff", "--message", "Merge", "topic"]);
    repository.push();
    assert_eq!(introduced(&Source::of(repository.url())).line, [first, second]);
}

fn inspect(source: &Source, wanted: Inspect) -> Inspected {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let request = Request {
        inspect: Some(wanted),
        ..source.request.clone()
    };
    let program = Path::new(env!("CARGO_BIN_EXE_berth-controller"));
    runtime.block_on(fetch::inspect(program, &request)).expect("an answer")
}

#[test]
fn heads_that_are_not_on_the_branch_are_read_from_the_pull_request() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "pull");
    let source = Source::of(repository.url());
    repository.write("README.md", "hello");
    let base = repository.commit("Begin");
    let commit = |methods: &str| {
        repository.write("b.yaml", &binding(methods));
        repository.git(&["add", "--all"]);
        repository.git(&["commit", "--quiet", "--message", methods]);
        repository.git(&["rev-parse", "HEAD"])
    };
    repository.git(&["checkout", "--quiet", "-b", "topic"]);
    let forced = commit("DELETE");
    repository.git(&["reset", "--quiet", "--hard", &base]);
    let (older, head) = (commit("GET"), commit("GET, PUT"));
    repository.git(&["push", "--quiet", "origin", "HEAD:refs/pull/1/head"]);
    // Squashed by the forge: none of these commits is on the branch.
    repository.git(&["checkout", "--quiet", "main"]);
    repository.git(&["merge", "--quiet", "--squash", "topic"]);
    let squashed = repository.commit("Squash");
    let found = introduced(&source);
    assert_eq!(found.commit, squashed);

    let wanted = Inspect {
        pull: 1,
        merge: squashed.clone(),
        commits: vec![head.clone(), older.clone(), forced.clone()],
        names: BTreeSet::from(["b".to_owned()]),
    };
    let inspected = inspect(&source, wanted.clone());
    let at = |commit: &str| inspected.heads.get(commit).map(|head| head.here["b"].clone());
    let (newest, older, forced) = (at(&head).expect("there"), at(&older).expect("there"), at(&forced));
    assert!(newest.covers(&older) && !older.covers(&newest));
    assert_eq!(forced, None, "it isn't part of the pull request any more");
    assert!(inspected.heads[&head].before.is_empty(), "it began without the binding");
    assert_eq!(
        inspect(&source, wanted),
        inspected,
        "and again, with what is there already"
    );
    assert_eq!(
        introduced(&source).commit,
        squashed,
        "the source's own clone is as it was"
    );
}
