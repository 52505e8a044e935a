//! Tables of documents: what is taken, what is refused, and where the error points.

use super::*;

fn files(texts: &[(&str, &str)]) -> Files {
    let file = |(path, text): &(&str, &str)| File {
        path: (*path).to_owned(),
        text: (*text).to_owned(),
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
        all.errors[0].at.starts_with("a.yaml:") && all.errors[0].at.as_str() > "a.yaml:7",
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

/// What may not stand under `metadata`, the column that it is refused at, and the words.
const REFUSED: [(&str, u32, &str); 18] = [
    (
        "namespace: other",
        3,
        "metadata.namespace is \"other\"; a source applies in its own, \"team\", alone",
    ),
    ("namespace: 7", 3, "metadata.namespace is 7"),
    (
        "ownerReferences: []",
        3,
        "metadata.ownerReferences may not be set from git",
    ),
    ("finalizers: [x]", 3, "metadata.finalizers"),
    ("uid: x", 3, "metadata.uid"),
    ("resourceVersion: \"1\"", 3, "metadata.resourceVersion"),
    ("generateName: x", 3, "metadata.generateName"),
    ("managedFields: []", 3, "metadata.managedFields"),
    (
        "deletionTimestamp: 2001-01-01T00:00:00Z",
        3,
        "metadata.deletionTimestamp",
    ),
    ("generation: 3", 3, "metadata.generation"),
    ("lables: {x: y}", 3, "labels and annotations may"),
    (
        "labels: {a: b, berth.dev/source-uid: x}",
        18,
        "\"berth.dev/source-uid\" is reserved",
    ),
    ("annotations: {berth.dev/commit: x}", 17, "is reserved"),
    ("annotations: {\"berth.dev/approve-prune\": x}", 17, "is reserved"),
    ("labels: text", 3, "maps keys to texts"),
    ("labels: [a, b]", 3, "maps keys to texts"),
    ("labels: {on: yes}", 16, "must be a text: put it in quotes"),
    ("annotations: {a: {b: c}}", 20, "must be a text: put it in quotes"),
];

/// What `metadata.name` may not be.
const NAMES: [&str; 9] = [
    "../../x",
    "a/status",
    "A",
    "1a",
    "a-",
    "\"\"",
    "7",
    "[a]",
    "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzz",
];

/// Documents that are refused whole, where, and the words.
const REFUSED_DOCUMENTS: [(&str, &str, &str); 9] = [
    (
        "apiVersion: berth.dve/v1alpha1\nkind: AgentSession\nmetadata: {name: a}\n",
        "a.yaml:1:1",
        "write berth.dev/v1alpha1",
    ),
    (
        "kind: CredentialBinding\nmetadata: {name: a}\n",
        "a.yaml:1:1",
        "write berth.dev/v1alpha1",
    ),
    (
        "apiVersion: berth.dev/v1alpha1\nkind: AgentSession\nmetadata: {name: a}\nsepc: {}\n",
        "a.yaml:4:1",
        "unknown field \"sepc\"",
    ),
    (
        "apiVersion: berth.dev/v1alpha1\nkind: AgentSession\nspec:\n  task:\n    prompt: |\n      status: x\nmetadata: {name: a}\nstatus: {phase: x}\n",
        "a.yaml:8:1",
        "status is Berth's to write",
    ),
    (
        "apiVersion: berth.dev/v1\nkind: AgentSession\n",
        "a.yaml:1:1",
        "berth.dev/v1alpha1 is",
    ),
    (
        "kind: GitSource\napiVersion: berth.dev/v1alpha1\n",
        "a.yaml:1:1",
        "isn't applied from git",
    ),
    (
        "kind: GrantPolicy\napiVersion: berth.dev/v1alpha1\n",
        "a.yaml:1:1",
        "isn't applied from git",
    ),
    (
        "kind: AgentSession\napiVersion: berth.dev/v1alpha1\n",
        "a.yaml:1:1",
        "metadata.name is missing",
    ),
    (
        "apiVersion: v1\nkind: List\nitems: []\n",
        "a.yaml:2:1",
        "a document of its own",
    ),
];

fn refused(document: &str, at: &str, words: &str) {
    let all = one(document);
    assert_eq!(all.objects, [], "{document}");
    let found = errors(&all);
    assert!(
        found.len() == 1 && found[0].starts_with(at) && found[0].contains(words),
        "{document}{found:?}"
    );
}

#[test]
fn what_a_file_may_not_say_is_refused_where_it_says_it() {
    for (line, column, words) in REFUSED {
        refused(
            &session("a", &format!("  {line}\n")),
            &format!("a.yaml:5:{column} "),
            words,
        );
    }
    for name in NAMES {
        refused(&session(name, ""), "a.yaml:4:3 ", "metadata.name is");
    }
    for (document, at, words) in REFUSED_DOCUMENTS {
        refused(document, at, words);
    }
    refused(
        &session("a", "status: {phase: Running}\n"),
        "a.yaml:5:1 ",
        "status is Berth's to write",
    );
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
        bomb = format!("{bomb}a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(","));
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

#[test]
fn what_kubectl_prints_may_be_committed() {
    let all = one(&session(
        "a",
        "  creationTimestamp: null\n  labels:\n  annotations: {}\nstatus:\n",
    ));
    assert_eq!((names(&all), errors(&all)), (vec!["AgentSession a".to_owned()], vec![]));
    assert_eq!(all.objects[0].object["metadata"].get("creationTimestamp"), None);
}

#[test]
fn a_large_foreign_document_is_skipped_and_one_of_ours_is_not() {
    let large = (0..30_000)
        .map(|number| format!("k{number}: 1\n"))
        .collect::<Vec<_>>()
        .concat();
    let all = one(&large);
    assert_eq!((all.skipped, errors(&all)), (1, vec![]));
    let ours = one(&format!("{}{large}", session("a", "")));
    assert_eq!((ours.objects.len(), ours.errors.len()), (0, 1));
}

#[test]
fn aliases_of_a_committed_document_are_bounded_in_size() {
    let flood = format!(
        "{}  a: &a \"{}\"\n  b: [{}]\n",
        session("a", "").replace("spec: {}", "spec:"),
        "x".repeat(500_000),
        ["*a"; 95].join(",")
    );
    let all = one(&flood);
    assert_eq!((all.objects.len(), all.errors.len()), (0, 1));
}
