//! `berth-controller check` on real repositories: what it prints, and its exit code.

use std::process::Command;

use super::forge::{Forge, Repository, session};

/// A binding of this name, for these methods and this host.
fn binding(name: &str, methods: &str, host: &str) -> String {
    let route = format!("{{name: r, host: {host}, methods: [{methods}], inject: {{header: {{name: authorization}}}}}}");
    format!(
        "apiVersion: berth.dev/v1alpha1\nkind: CredentialBinding\nmetadata:\n  name: {name}\nspec:\n  \
         credential: {{name: TOKEN, source: {{secretRef: {{name: forge, key: token}}}}}}\n  \
         subjects: {{allSessions: true}}\n  reason: tests\n  routes: [{route}]\n"
    )
}

/// Exit code, and what was printed.
fn check(repository: &Repository, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_berth-controller"))
        .args(["check", "--namespace", "team"])
        .args(arguments)
        .arg(repository.folder())
        .output()
        .expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_merge_is_told_by_what_it_grants() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "check");
    let host = "api.example.com";
    for (name, methods) in [
        ("gone", "GET"),
        ("narrow", "GET, PUT"),
        ("same", "GET"),
        ("wide", "GET"),
    ] {
        repository.write(&format!("{name}.yaml"), &binding(name, methods, host));
    }
    let base = repository.commit("Begin");
    assert_eq!(
        check(&repository, &[]),
        (Some(0), "4 objects, 0 documents of other kinds, 0 errors\n".to_owned())
    );

    repository.git(&["rm", "--quiet", "gone.yaml"]);
    repository.git(&["mv", "same.yaml", "moved.yaml"]);
    repository.write("narrow.yaml", &binding("narrow", "GET", host));
    repository.write("new.yaml", &binding("new", "GET", host));
    repository.write("wide.yaml", &binding("wide", "GET, DELETE", host));
    repository.commit("Change");
    let (code, said) = check(&repository, &["--base", &base]);
    assert_eq!(code, Some(0), "{said}");
    let told: Vec<&str> = said.lines().filter(|line| !line.starts_with(' ')).collect();
    let expected = [
        "grants new (new.yaml:1:1)",
        "widens wide (wide.yaml:1:1)",
        "narrows narrow (narrow.yaml:1:1)",
        "revokes gone (gone.yaml:1:1)",
        "4 objects, 0 documents of other kinds, 0 errors",
    ];
    assert_eq!(told, expected, "{said}");
    assert!(
        said.contains("TOKEN for every session: GET,DELETE api.example.com /**, without an end"),
        "{said}"
    );
    assert!(said.contains("methods that write"), "{said}");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let forge = Forge::start();
    let repository = Repository::new(&forge, "wrong");
    repository.write("a/session.yaml", &session("s", "true"));
    repository.write("a/pages.yaml", &binding("pages", "GET", "\"*.github.io\""));
    repository.write("broken.yaml", "kind: [\n");
    repository.commit("Begin");
    let (code, said) = check(&repository, &[]);
    assert_eq!(code, Some(1), "{said}");
    let place = "a/pages.yaml:1:1: error: CredentialBinding pages: spec.routes[0].host: ";
    assert!(said.contains(place) && said.contains("broken.yaml:"), "{said}");
    assert!(
        said.ends_with("2 objects, 0 documents of other kinds, 2 errors\n"),
        "{said}"
    );

    let (code, said) = check(&repository, &["--revision", "nowhere"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("revision nowhere can't be read: "), "{said}");
}
