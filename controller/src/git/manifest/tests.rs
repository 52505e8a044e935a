//! Tables of documents: what is taken, what is refused, and where the error points.

use super::*;

fn files(texts: &[(&str, &str)]) -> Files {
    let file = |(path, text): &(&str, &str)| File {
        path: (*path).to_owned(),
        text: (*text).to_owned(),
        commit: "c0ffee".to_owned(),
        author: "Alice <alice@example.com>".to_owned(),
    };
    Files {
        read: texts.iter().map(file).collect(),
        refused: vec![],
    }
}

fn one(text: &str) -> Declarations {
    read(&files(&[("a.yaml", text)]), "team")
}

fn session(name: &str, more: &str) -> String {
    format!("apiVersion: berth.dev/v1alpha1\nkind: AgentSession\nmetadata:\n  name: {name}\n{more}spec: {{}}\n")
}

fn names(all: &Declarations) -> Vec<String> {
    all.objects.iter().map(|declared| declared.key.to_string()).collect()
}

fn errors(all: &Declarations) -> Vec<String> {
    all.errors
        .iter()
        .map(|error| format!("{} {}", error.at, error.message))
        .collect()
}

#[test]
fn documents_of_a_file_are_read_one_by_one() {
    let all = one(&format!(
        "# first\n{}---\n{}---\n\n---\n{}",
        session("a", ""),
        session("b", ""),
        session("c", "")
    ));
    assert_eq!(names(&all), ["AgentSession a", "AgentSession b", "AgentSession c"]);
    let places: Vec<&str> = all.objects.iter().map(|declared| declared.at.as_str()).collect();
    assert_eq!(places, ["a.yaml:2:1", "a.yaml:8:1", "a.yaml:16:1"]);
    assert_eq!(all.errors, []);
}

#[test]
fn json_is_yaml() {
    let all =
        one(r#"{"apiVersion": "berth.dev/v1alpha1", "kind": "AgentPool", "metadata": {"name": "p"}, "spec": {}}"#);
    assert_eq!(names(&all), ["AgentPool p"]);
}

#[test]
fn a_broken_document_leaves_its_neighbours_alone() {
    let all = one(&format!(
        "{}---\nspec: [1, 2\nkind: AgentSession\n---\n{}",
        session("a", ""),
        session("b", "")
    ));
    assert_eq!(names(&all), ["AgentSession a", "AgentSession b"]);
    assert_eq!(all.errors.len(), 1);
    assert!(
        all.errors[0].at.starts_with("a.yaml:") && all.errors[0].at > "a.yaml:7".to_owned(),
        "{}",
        all.errors[0].at
    );
    assert!(all.unreadable.contains("a.yaml"));
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let all = one("apiVersion: berth.dev/v1alpha1\nkind: AgentSession\nkind: AgentPool\n");
    assert!(all.errors[0].at.starts_with("a.yaml:3:"), "{:?}", errors(&all));
}

#[test]
fn foreign_kinds_are_counted_and_skipped() {
    let all = one("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\nresources: [a.yaml]\n---\njust text\n");
    assert_eq!((all.skipped, all.errors.len(), all.objects.len()), (3, 0, 0));
}

#[test]
fn what_a_file_may_not_say_is_refused_where_it_says_it() {
    for (document, at, words) in [
        (
            session("a", "  namespace: other\n"),
            "a.yaml:5:3",
            "a source applies in its own, \"team\", alone",
        ),
        (
            session("a", "  ownerReferences: []\n"),
            "a.yaml:5:3",
            "metadata.ownerReferences may not be set from git",
        ),
        (session("a", "  finalizers: [x]\n"), "a.yaml:5:3", "metadata.finalizers"),
        (session("a", "  uid: x\n"), "a.yaml:5:3", "metadata.uid"),
        (
            session("a", "  resourceVersion: \"1\"\n"),
            "a.yaml:5:3",
            "metadata.resourceVersion",
        ),
        (
            session("a", "  generateName: x\n"),
            "a.yaml:5:3",
            "metadata.generateName",
        ),
        (
            session("a", "  managedFields: []\n"),
            "a.yaml:5:3",
            "metadata.managedFields",
        ),
        (
            session("a", "  labels: {berth.dev/source-uid: x}\n"),
            "a.yaml:5:3",
            "is reserved",
        ),
        (
            session("a", "  annotations: {berth.dev/commit: x}\n"),
            "a.yaml:5:3",
            "is reserved",
        ),
        (
            session("a", "status: {phase: Running}\n"),
            "a.yaml:5:1",
            "status is Berth's to write",
        ),
        (
            "apiVersion: berth.dev/v1\nkind: AgentSession\n".to_owned(),
            "a.yaml:1:1",
            "berth.dev/v1alpha1 is",
        ),
        (
            "kind: GitSource\napiVersion: berth.dev/v1alpha1\n".to_owned(),
            "a.yaml:1:1",
            "isn't applied from git",
        ),
        (
            "kind: GrantPolicy\napiVersion: berth.dev/v1alpha1\n".to_owned(),
            "a.yaml:1:1",
            "isn't applied from git",
        ),
        (
            "kind: AgentSession\napiVersion: berth.dev/v1alpha1\n".to_owned(),
            "a.yaml:1:1",
            "metadata.name is missing",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: []\n".to_owned(),
            "a.yaml:2:1",
            "a document of its own",
        ),
    ] {
        let all = one(&document);
        assert_eq!(all.objects, [], "{document}");
        assert_eq!(all.errors.len(), 1, "{document}");
        assert!(
            all.errors[0].at == at && all.errors[0].message.contains(words),
            "{document}{:?}",
            errors(&all)
        );
    }
}

#[test]
fn break_glass_may_be_set_and_the_own_namespace_said() {
    let all = one(&session(
        "a",
        "  namespace: team\n  annotations: {berth.dev/revoke: now}\n",
    ));
    assert_eq!((names(&all), errors(&all)), (vec!["AgentSession a".to_owned()], vec![]));
}

#[test]
fn an_object_in_two_files_is_applied_from_neither() {
    let (a, b) = (session("s", ""), format!("# b\n{}", session("s", "")));
    let all = read(&files(&[("a.yaml", &a), ("b.yaml", &b)]), "team");
    assert_eq!(names(&all), Vec::<String>::new());
    assert_eq!(
        errors(&all),
        [
            "a.yaml:1:1 declared again at b.yaml:2:1; keep one of them",
            "b.yaml:2:1 declared again at a.yaml:1:1; keep one of them",
        ]
    );
    assert!(all.withheld.contains(&Key {
        kind: Kind::Session,
        name: "s".to_owned()
    }));
}

#[test]
fn moving_and_indenting_a_document_keeps_its_hash() {
    let one_way = one(&session("a", ""));
    let other = one("metadata: {name: a}\nkind:   AgentSession\nspec: {}\napiVersion: berth.dev/v1alpha1\n");
    assert_eq!(one_way.objects[0].sha256, other.objects[0].sha256);
}

#[test]
fn a_bomb_of_aliases_is_an_error_of_its_file() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(","));
    }
    let all = read(&files(&[("bomb.yaml", &bomb), ("a.yaml", &session("a", ""))]), "team");
    assert_eq!(names(&all), ["AgentSession a"]);
    assert!(all.errors[0].at.starts_with("bomb.yaml:"), "{:?}", errors(&all));
}

#[test]
fn a_refused_file_is_said_with_its_path() {
    let refused = Files {
        read: vec![],
        refused: vec![("link.yaml".to_owned(), "symbolic links aren't followed".to_owned())],
    };
    let all = read(&refused, "team");
    assert_eq!(errors(&all), ["link.yaml:1:1 symbolic links aren't followed"]);
    assert!(all.unreadable.contains("link.yaml"));
}
