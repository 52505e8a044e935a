//! Real files and databases; the controller's end of the exchange is a stand-in that keeps chunks in memory.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use berth_protocol::checkpoint::{About, Answer, CHUNK_MAX, Restore, Step};
use berth_protocol::handoff::FromRunner;
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::cut::Cutter;
use super::gather::{Databases, FILE_MAX, Sources, fingerprint, gather};
use super::restore::restore;
use super::take::{Exchange, NotTaken, Place, take};
use crate::harness::Kept;

const KEEPS: &[Kept] = &[Kept::Lines(".agent/log", ".jsonl"), Kept::Sqlite(".agent/state.db")];

struct Pod {
    folder: TempDir,
}

impl Pod {
    fn new() -> Self {
        let pod = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(pod.folder.path().join("home/.agent/log/deep")).unwrap();
        fs::create_dir(pod.folder.path().join("workspace")).unwrap();
        pod
    }

    fn sources(&self) -> Sources {
        Sources {
            home: self.folder.path().join("home"),
            workspace: self.folder.path().join("workspace"),
            keeps: KEEPS,
        }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.folder.path().join(name)).is_ok()
    }

    fn git(&self, arguments: &[&str]) {
        let git = Command::new("git")
            .current_dir(self.folder.path().join("workspace"))
            .args(["-c", "user.name=Fake", "-c", "user.email=fake@example.com"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(git.status.success(), "{git:?}");
    }
}

/// What a controller keeps.
#[derive(Default)]
struct StandIn {
    chunks: HashMap<String, Vec<u8>>,
    order: Vec<String>,
    sent: usize,
}

fn stand_in(mut kept: StandIn) -> (Exchange, JoinHandle<StandIn>) {
    let (steps, mut incoming) = mpsc::channel(1);
    let (outgoing, answers) = mpsc::channel(1);
    let serving = tokio::spawn(async move {
        let mut wanted = Vec::new();
        let mut order = Vec::new();
        while let Some(FromRunner::Checkpoint(step)) = incoming.recv().await {
            let answer = match step {
                Step::Offer { number, hashes } => {
                    let new = |position: &u32| !kept.chunks.contains_key(&hashes[*position as usize]);
                    let positions: Vec<u32> = (0..u32::try_from(hashes.len()).unwrap()).filter(new).collect();
                    wanted = positions.iter().map(|at| hashes[*at as usize].clone()).collect();
                    order.extend(hashes);
                    Answer::Want { number, positions }
                }
                Step::Chunk { data, .. } => {
                    let chunk = zstd::bulk::decompress(&BASE64_STANDARD.decode(data).unwrap(), CHUNK_MAX).unwrap();
                    let hash: String = wanted.remove(0);
                    assert_eq!(hash, hex::encode(Sha256::digest(&chunk)));
                    kept.sent += 1;
                    kept.chunks.insert(hash, chunk);
                    continue;
                }
                Step::Finish { number, .. } => {
                    kept.order = std::mem::take(&mut order);
                    let error = String::new();
                    Answer::Taken { number, error }
                }
                Step::Fetch { position } => {
                    let chunk = &kept.chunks[&kept.order[position as usize]];
                    let data = BASE64_STANDARD.encode(zstd::bulk::compress(chunk, 1).unwrap());
                    let error = String::new();
                    Answer::Piece { position, data, error }
                }
            };
            outgoing.send(answer).await.unwrap();
        }
        kept
    });
    (Exchange { steps, answers }, serving)
}

/// Bytes without a pattern, the same each time (xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

async fn taken(pod: &Pod, kept: StandIn) -> (About, StandIn) {
    let (mut exchange, serving) = stand_in(kept);
    let about = take(pod.sources(), 1, Place::default(), &mut exchange).await.unwrap();
    drop(exchange);
    (about, serving.await.unwrap())
}

async fn restored(pod: &Pod, about: &About, kept: StandIn) -> String {
    let chunks = u32::try_from(kept.order.len()).unwrap();
    let (mut exchange, _serving) = stand_in(kept);
    let from = Restore {
        chunks,
        digest: about.digest.clone(),
        ..Restore::default()
    };
    restore(pod.sources(), &from, &mut exchange).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_pod_has_the_same_files_and_says_the_same_hash() {
    let pod = Pod::new();
    pod.git(&["init", "-q", "-b", "main"]);
    pod.write("workspace/committed", "first\n");
    pod.write("workspace/.gitignore", "ignored/\n");
    pod.git(&["add", "."]);
    pod.git(&["commit", "-qm", "Begin"]);
    pod.write("workspace/committed", "second\n");
    pod.write("workspace/staged", "staged\n");
    pod.git(&["add", "staged"]);
    pod.write("workspace/new/deep/file", vec![7; 3 << 20]);
    pod.write("workspace/ignored/huge", "a cache");
    pod.write(
        &format!("workspace/{}/{}", "long".repeat(40), "name".repeat(40)),
        "long",
    );
    symlink("committed", pod.folder.path().join("workspace/link")).unwrap();
    pod.write("home/.agent/log/deep/one.jsonl", "{}\n");
    pod.write("home/.agent/log/cache", "not kept");
    pod.write("home/.netrc", "not kept");
    let database = Connection::open(pod.folder.path().join("home/.agent/state.db")).unwrap();
    database.pragma_update(None, "journal_mode", "wal").unwrap();
    database
        .execute_batch("create table said (word text); insert into said values ('remembered')")
        .unwrap();

    let (about, kept) = taken(&pod, StandIn::default()).await;
    assert!(about.transcript && about.missing.is_empty(), "{about:?}");
    let other = Pod::new();
    assert_eq!(restored(&other, &about, kept).await, about.digest);
    assert_eq!(other.read("workspace/committed"), "second\n");
    assert_eq!(other.read("workspace/link"), "second\n");
    assert_eq!(other.read("home/.agent/log/deep/one.jsonl"), "{}\n");
    for name in ["workspace/ignored", "home/.netrc", "home/.agent/log/cache"] {
        assert!(!other.has(name), "{name}");
    }
    let status = |pod: &Pod| {
        let status = Command::new("git")
            .args(["status", "--porcelain"])
            .current_dir(pod.folder.path().join("workspace"))
            .output()
            .unwrap();
        String::from_utf8(status.stdout).unwrap()
    };
    assert_eq!(status(&other), status(&pod));
    let copy = Connection::open(other.folder.path().join("home/.agent/state.db")).unwrap();
    let word: String = copy.query_row("select word from said", [], |row| row.get(0)).unwrap();
    assert_eq!(word, "remembered");
}

#[test]
fn a_repository_says_what_is_kept_although_git_ignores_it() {
    let pod = Pod::new();
    pod.git(&["init", "-q"]);
    pod.write("workspace/.gitignore", "/target/\n*.env\n");
    pod.write(
        "workspace/.berthignore",
        "!/target/\n/target/debug/\n!local.env\nnoise\n",
    );
    for name in [
        "target/cache",
        "target/debug/huge",
        "local.env",
        "other.env",
        "noise",
        "source",
    ] {
        pod.write(&format!("workspace/{name}"), "x");
    }
    let gathered = gather(&pod.sources(), Databases::AtRest).unwrap();
    let names = gathered.roots[1].iter().map(|entry| entry.name.display().to_string());
    let kept: Vec<String> = names.filter(|name| !name.starts_with(".git/")).collect();
    assert_eq!(
        kept,
        [
            ".berthignore",
            ".git",
            ".gitignore",
            "local.env",
            "source",
            "target",
            "target/cache"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_not_sent_again() {
    let pod = Pod::new();
    let noise = noise(4 << 20);
    pod.write("workspace/big", &noise);
    let before = fingerprint(&pod.sources()).unwrap();
    let (first, kept) = taken(&pod, StandIn::default()).await;
    let all = kept.sent;
    let (second, kept) = taken(&pod, kept).await;
    assert_eq!((first.digest, kept.sent), (second.digest, all));
    assert_eq!(fingerprint(&pod.sources()).unwrap(), before);

    pod.write(
        "workspace/big",
        [b"a line before everything\n", noise.as_slice()].concat(),
    );
    assert_ne!(fingerprint(&pod.sources()).unwrap(), before);
    let (_, kept) = taken(&pod, kept).await;
    assert!(kept.sent - all <= 4 && all > 20, "{} of {all}", kept.sent - all);
}

#[test]
fn chunks_do_not_depend_on_how_the_bytes_arrive() {
    let bytes = noise(2_000_000);
    let cut = |size: usize| {
        let mut lengths = Vec::new();
        let mut cutter = Cutter::new(|chunk: &[u8]| {
            lengths.push(chunk.len());
            Ok(())
        });
        for piece in bytes.chunks(size) {
            cutter.write_all(piece).unwrap();
        }
        let whole = cutter.finish().unwrap();
        assert_eq!(whole.digest, hex::encode(Sha256::digest(&bytes)));
        assert_eq!(
            (whole.bytes, whole.chunks as usize),
            (bytes.len() as u64, lengths.len())
        );
        lengths
    };
    let whole = cut(bytes.len());
    assert!(whole.iter().all(|length| *length <= CHUNK_MAX));
    assert_eq!(whole.iter().sum::<usize>(), bytes.len());
    for size in [999, 65_536, 1_048_577] {
        assert_eq!(cut(size), whole, "{size}");
    }
}

#[test]
fn what_is_over_a_limit_is_named() {
    let pod = Pod::new();
    pod.write("workspace/small", "small");
    let large = fs::File::create(pod.folder.path().join("workspace/large.bin")).unwrap();
    large.set_len(FILE_MAX + 1).unwrap();
    let gathered = gather(&pod.sources(), Databases::Copied).unwrap();
    assert_eq!(
        (gathered.missing.as_slice(), gathered.missing_count),
        (&["large.bin".to_owned()][..], 1)
    );
    let names: Vec<&Path> = gathered.roots[1].iter().map(|entry| entry.name.as_path()).collect();
    assert_eq!(names, [Path::new("small")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_leads_outside_is_refused() {
    let mut archive = Vec::new();
    let mut tar = tar::Builder::new(&mut archive);
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.as_old_mut().name[..9].copy_from_slice(b"../hostile"[..9].try_into().unwrap());
    header.set_cksum();
    tar.append(&header, &b"evil"[..]).unwrap();
    tar.finish().unwrap();
    drop(tar);
    archive.extend([0; 1024]);
    let hash = hex::encode(Sha256::digest(&archive));
    let kept = StandIn {
        chunks: HashMap::from([(hash.clone(), archive)]),
        order: vec![hash],
        sent: 0,
    };
    let pod = Pod::new();
    let (mut exchange, _serving) = stand_in(kept);
    let from = Restore {
        chunks: 1,
        ..Restore::default()
    };
    let error = restore(pod.sources(), &from, &mut exchange).await.unwrap_err();
    assert!(!pod.has("hostile") && !pod.has("hostil"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_said_and_an_answer_for_another_checkpoint_is_passed_over() {
    let pod = Pod::new();
    let (steps, mut incoming) = mpsc::channel(1);
    let (outgoing, answers) = mpsc::channel(4);
    let mut exchange = Exchange { steps, answers };
    let taken = |number, error: &str| Answer::Taken {
        number,
        error: error.to_owned(),
    };
    outgoing.send(taken(6, "")).await.unwrap();
    outgoing.send(taken(7, "the cap is reached")).await.unwrap();
    let reading = tokio::spawn(async move { while incoming.recv().await.is_some() {} });
    let error = take(pod.sources(), 7, Place::default(), &mut exchange)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, NotTaken::Refused(why) if why == "the cap is reached"),
        "{error}"
    );
    drop(exchange);
    reading.await.unwrap();
}
