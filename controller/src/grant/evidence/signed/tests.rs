//! Commits that git itself has signed, with keys that `ssh-keygen` has made.

use std::path::Path;
use std::process::Command;

use git2::Repository;
use tempfile::TempDir;

use super::*;
use crate::git::introduced::Signature;

/// A repository, and the keys of some people.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self {
            folder: TempDir::new().unwrap(),
        };
        desk.git(&["init", "--quiet", "--initial-branch=main", "."], &[]);
        desk
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Makes a key; gives its public half.
    fn key(&self, name: &str, kind: &[&str]) -> String {
        let path = self.path(name);
        run(Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-C", name, "-f", &path])
            .args(kind));
        std::fs::read_to_string(format!("{path}.pub"))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn git(&self, arguments: &[&str], configuration: &[String]) {
        let identity = [
            "user.name=Alice".to_owned(),
            "user.email=alice@example.com".to_owned(),
            "gpg.format=ssh".to_owned(),
        ];
        let mut command = Command::new("git");
        command
            .current_dir(self.folder.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", self.folder.path());
        for entry in identity.iter().chain(configuration) {
            command.args(["-c", entry]);
        }
        run(command.args(arguments));
    }

    /// A commit that this key has signed.
    fn signed(&self, key: &str) -> Authored {
        let key = format!("user.signingkey={}", self.path(key));
        self.git(
            &[
                "commit",
                "--quiet",
                "--allow-empty",
                "-S",
                "-m",
                "Add a binding\n\n--\n",
            ],
            &[key],
        );
        self.head()
    }

    fn head(&self) -> Authored {
        authored(self.folder.path())
    }
}

/// As the fetch reads it.
fn authored(folder: &Path) -> Authored {
    let repository = Repository::open(folder).unwrap();
    let commit = repository.head().unwrap().peel_to_commit().unwrap();
    let signature = repository.extract_signature(&commit.id(), None).ok();
    Authored {
        commit: commit.id().to_string(),
        at: commit.committer().when().seconds(),
        signature: signature.map(|(armored, payload)| Signature {
            armored: String::from_utf8(armored.to_vec()).unwrap(),
            payload: STANDARD.encode(&*payload),
        }),
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn people(text: &str) -> Signers {
    let (signers, errors) = Signers::parse(text, &[]);
    assert!(errors.is_empty(), "{errors:?}");
    signers
}

fn now() -> Timestamp {
    Timestamp::now()
}

fn refusal(result: Result<String, Refused>) -> String {
    let refused = result.unwrap_err();
    assert_eq!(refused.reason, Reason::Unsigned);
    refused.message
}

#[test]
fn every_kind_of_key_that_git_signs_with_is_verified() {
    let desk = Desk::new();
    let kinds: [(&str, &[&str]); 5] = [
        ("ed25519", &["-t", "ed25519"]),
        ("p256", &["-t", "ecdsa", "-b", "256"]),
        ("p384", &["-t", "ecdsa", "-b", "384"]),
        ("p521", &["-t", "ecdsa", "-b", "521"]),
        ("rsa", &["-t", "rsa", "-b", "3072"]),
    ];
    for (name, kind) in kinds {
        let key = desk.key(name, kind);
        let signers = people(&format!("alice@example.com namespaces=\"git\" {key}"));
        let mut authored = desk.signed(name);
        assert_eq!(
            signer(&authored, &signers, now()),
            Ok("alice@example.com".to_owned()),
            "{name}"
        );

        let signature = authored.signature.as_mut().unwrap();
        let mut payload = STANDARD.decode(&signature.payload).unwrap();
        payload.push(b'\n');
        signature.payload = STANDARD.encode(payload);
        assert!(
            refusal(signer(&authored, &signers, now())).contains("doesn't verify"),
            "{name}"
        );
    }
}

#[test]
fn a_commit_without_a_signature_and_one_by_a_strangers_key_are_unsigned() {
    let desk = Desk::new();
    let key = desk.key("alice", &["-t", "ed25519"]);
    desk.key("mallory", &["-t", "ed25519"]);
    let signers = people(&format!("alice@example.com {key}"));
    desk.git(&["commit", "--quiet", "--allow-empty", "-m", "Unsigned"], &[]);
    assert!(refusal(signer(&desk.head(), &signers, now())).contains("isn't signed"));
    let stranger = desk.signed("mallory");
    assert!(refusal(signer(&stranger, &signers, now())).contains("isn't among the install's signing keys"));

    // The listed key beside a signature that another has made.
    let mut swapped = desk.signed("alice");
    swapped.signature.as_mut().unwrap().armored = stranger.signature.unwrap().armored;
    assert!(
        refusal(signer(
            &swapped,
            &people(&format!("m {}", desk.key("m", &["-t", "ed25519"]))),
            now()
        ))
        .contains("isn't among")
    );
}

#[test]
fn a_signature_of_a_file_signs_no_commit() {
    let desk = Desk::new();
    let key = desk.key("alice", &["-t", "ed25519"]);
    let mut authored = desk.signed("alice");
    let payload = STANDARD.decode(&authored.signature.as_ref().unwrap().payload).unwrap();
    std::fs::write(desk.path("payload"), payload).unwrap();
    run(Command::new("ssh-keygen").args([
        "-Y",
        "sign",
        "-q",
        "-n",
        "file",
        "-f",
        &desk.path("alice"),
        &desk.path("payload"),
    ]));
    authored.signature.as_mut().unwrap().armored = std::fs::read_to_string(desk.path("payload.sig")).unwrap();
    let signers = people(&format!("alice@example.com {key}"));
    assert!(refusal(signer(&authored, &signers, now())).contains("something else than git"));
}

#[test]
fn a_forges_key_proves_no_person_although_it_is_listed() {
    let desk = Desk::new();
    let key = desk.key("forge", &["-t", "ed25519"]);
    let (signers, _) = Signers::parse(&format!("alice@example.com {key}"), std::slice::from_ref(&key));
    assert!(refusal(signer(&desk.signed("forge"), &signers, now())).contains("proves no person"));
}

#[test]
fn a_key_that_has_ended_signs_nothing_new_whatever_date_the_commit_has() {
    let desk = Desk::new();
    let key = desk.key("alice", &["-t", "ed25519"]);
    let authored = desk.signed("alice");
    let line = |option: &str, time: i64| {
        let time = Timestamp::from_second(time).unwrap().strftime("%Y%m%d%H%M%SZ");
        people(&format!("alice@example.com {option}=\"{time}\" {key}"))
    };
    let at = |second: i64| Timestamp::from_second(authored.at + second).unwrap();
    let ends = line("valid-before", authored.at + 60);
    assert!(signer(&authored, &ends, at(59)).is_ok());
    assert!(refusal(signer(&authored, &ends, at(61))).contains("outside the time"));
    assert!(refusal(signer(&authored, &line("valid-after", authored.at + 1), at(5))).contains("outside the time"));
}
