//! Packs that git makes, and such that only an attacker makes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use berth_egress::policy::ProtectedPaths;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tempfile::TempDir;

use super::oid::{Kind, Oid};
use super::pack::{DEPTH_MAX, Pack, PackError, Visit, WHOLE_MAX};
use super::*;
use crate::vault::Vault;

/// A repository in a temporary directory.
struct Repository(TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        repository.git(&["init", "--quiet", "--initial-branch=work", "."], b"");
        repository
    }

    fn git(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut program = Command::new("git")
            .args(arguments)
            .current_dir(self.0.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "agent")))
            .envs(["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "agent@example.com")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        program.stdin.take().unwrap().write_all(input).unwrap();
        let output = program.wait_with_output().unwrap();
        assert!(output.status.success(), "git {arguments:?}");
        output.stdout
    }

    fn commit(&self, path: &str, content: &[u8]) {
        let file = self.0.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self.git(&["add", "--all"], b"");
        self.git(&["commit", "--quiet", "--message", path], b"");
    }

    fn pack(&self, arguments: &[&str], revisions: &str) -> Vec<u8> {
        let arguments = [&["pack-objects", "--stdout", "--revs", "--quiet"], arguments].concat();
        self.git(&arguments, revisions.as_bytes())
    }

    /// Kind and name of all objects, as git says.
    fn objects(&self) -> BTreeSet<String> {
        let format = "--batch-check=%(objecttype) %(objectname)";
        let text = self.git(&["cat-file", format, "--batch-all-objects"], b"");
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }
}

#[derive(Default)]
struct Names(BTreeSet<String>);

impl Visit for Names {
    fn whole(&mut self, kind: Kind, name: Oid, content: &[u8]) -> Result<(), PackError> {
        assert_eq!(Oid::of(kind, content), name);
        self.0.insert(format!("{} {name}", kind.as_str()));
        Ok(())
    }

    fn part(&mut self, _part: &[u8]) {}

    fn end(&mut self, name: Oid) {
        self.0.insert(format!("blob {name}"));
    }
}

fn spooled(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn walk(pack: &[u8]) -> Result<BTreeSet<String>, PackError> {
    let file = spooled(pack);
    let mut names = Names::default();
    Pack::open(&file, 0, pack.len() as u64)?.walk(|_| true, &mut names)?;
    Ok(names.0)
}

fn noise(seed: u64, lines: usize) -> Vec<u8> {
    let mut state = seed;
    let mut line = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        format!("{state:016x}\n")
    };
    (0..lines).flat_map(|_| line().into_bytes()).collect()
}

fn limits() -> GitUse {
    GitUse {
        repository: "me/mine".to_owned(),
        step: GitStep::Push,
        ref_limits: vec![vec!["refs/heads/agent/".to_owned()]],
        protected_paths: ProtectedPaths::Refuse,
        protect: Vec::new(),
    }
}

const SOME: &str = "1111111111111111111111111111111111111111";
const NULL: &str = "0000000000000000000000000000000000000000";

fn body(commands: &[(&str, &str, &str)], pack: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, (old, new, name)) in commands.iter().enumerate() {
        let capabilities = if number == 0 {
            "\0 report-status side-band-64k agent=git/2"
        } else {
            ""
        };
        packet::put(&mut bytes, format!("{old} {new} {name}{capabilities}").as_bytes());
    }
    bytes.extend_from_slice(packet::FLUSH);
    bytes.extend_from_slice(pack);
    bytes
}

fn push(pack: &[u8]) -> Vec<u8> {
    body(&[(NULL, SOME, "refs/heads/agent/a")], pack)
}

/// What stands against a push.
fn judged(bytes: &[u8], limits: &GitUse) -> Option<Objection> {
    let scanner = Scanner::new(None, ["stub_fake_0123456789abcdef0123"]).unwrap();
    let protected = Protected::with(["fleet/**"]).unwrap();
    let judge = Judge {
        allowed: limits,
        scanner: &scanner,
        protected: &protected,
    };
    judge.judge(&spooled(bytes), bytes.len() as u64).unwrap().1
}

fn reason(bytes: &[u8]) -> String {
    judged(bytes, &limits()).map_or_else(|| "passed".to_owned(), |objection| objection.reason)
}

#[test]
fn every_object_is_made_as_git_makes_it() {
    let repository = Repository::new();
    let large = noise(3, 700_000); // beyond what is held
    repository.commit("large.bin", &large);
    let base = noise(5, 40_000);
    for version in 0..30 {
        let mut content = base.clone();
        content.splice(version * 1000..version * 1000 + 5, *b"other");
        repository.commit("src/deep/file.txt", &content);
        repository.commit(&format!("src/{version}.txt"), &content[..20_000]);
    }
    repository.git(&["tag", "--annotate", "--message", "first", "v1"], b"");
    for arguments in [
        &["--all", "--window=40", "--depth=40"][..],
        &["--all", "--delta-base-offset", "--window=40", "--depth=40"],
        &[
            "--all",
            "--delta-base-offset",
            "--window=5",
            "--depth=2",
            "--compression=0",
        ],
        &["--all", "--window=0"],
    ] {
        assert_eq!(
            walk(&repository.pack(arguments, "")).unwrap(),
            repository.objects(),
            "{arguments:?}"
        );
    }
}

#[test]
fn bases_that_were_let_go_are_made_again() {
    // A chain of objects of 4 MiB, each of which has another object upon it besides the next link.
    let mut pack = Crafted::new();
    let content = vec![b'x'; 4 << 20];
    let mut base = pack.blob(&content);
    for link in 0..12_u8 {
        let side = Crafted::append(&content, usize::from(link), &[b's', link]);
        pack.delta(base, &side);
        let next = Crafted::append(&content, usize::from(link), b"n");
        base = pack.delta(base, &next);
    }
    let names = walk(&pack.finish()).unwrap();
    let mut expected = BTreeSet::from([format!("blob {}", Oid::of(Kind::Blob, &content))]);
    for link in 0..12_u8 {
        let before = [content.as_slice(), &vec![b'n'; usize::from(link)]].concat();
        for end in [&[b's', link][..], b"n"] {
            expected.insert(format!(
                "blob {}",
                Oid::of(Kind::Blob, &[before.as_slice(), end].concat())
            ));
        }
    }
    assert_eq!(names, expected);
}

#[test]
fn refs_are_held_against_the_route() {
    let repository = Repository::new();
    repository.commit("a", b"a\n");
    let pack = repository.pack(&[], "HEAD\n");
    assert_eq!(reason(&push(&pack)), "passed");
    for name in [
        "refs/heads/main",
        "refs/heads/agent",
        "refs/heads/agent/../main",
        "HEAD",
    ] {
        let objection = judged(&body(&[(NULL, SOME, name)], &pack), &limits()).unwrap();
        assert_eq!(objection.refs, [name]);
        let deleted = judged(&body(&[(SOME, NULL, name)], b""), &limits()).unwrap();
        assert_eq!(deleted.refs, [name]);
    }
    assert_eq!(reason(&body(&[(SOME, NULL, "refs/heads/agent/a")], b"")), "passed");
    assert!(reason(&body(&[(SOME, NULL, "refs/heads/agent/a")], &pack)).contains("bytes follow"));
    assert_eq!(reason(b"0000"), "passed");
    assert!(reason(b"0000PACK").contains("bytes follow"));
    assert!(reason(&push(b"")).contains("there is none"));
    // A ref to something that is there already.
    assert_eq!(reason(&push(&Crafted::new().finish())), "passed");
}

#[test]
fn a_thin_pack_is_refused() {
    let repository = Repository::new();
    let content = noise(1, 4000);
    repository.commit("a", &content);
    repository.commit("a", &[content.as_slice(), b"more\n"].concat());
    let thin = repository.pack(&["--thin"], "HEAD\n^HEAD~1\n");
    assert!(
        reason(&push(&thin)).contains("the pack is thin"),
        "{}",
        reason(&push(&thin))
    );
    assert_eq!(reason(&push(&repository.pack(&[], "HEAD\n^HEAD~1\n"))), "passed");
}

#[test]
fn a_corrupt_pack_is_refused() {
    let repository = Repository::new();
    repository.commit("a", &noise(1, 10));
    let pack = repository.pack(&[], "HEAD\n");
    for at in 0..pack.len() {
        let mut changed = pack.clone();
        changed[at] ^= 0x10;
        assert!(walk(&changed).is_err(), "{at}");
        assert!(walk(&pack[..at]).is_err(), "{at}");
    }
    assert!(walk(&[pack.as_slice(), b"x"].concat()).is_err());
    assert!(walk(&Crafted::sealed([&pack[..pack.len() - 20], b"x"].concat())).is_err());
}

#[test]
fn bombs_are_refused() {
    let mut chain = Crafted::new();
    let mut base = chain.blob(b"0123456789");
    for _ in 0..=DEPTH_MAX {
        base = chain.delta(base, &[10, 10, 0x90, 10]);
    }
    assert!(matches!(walk(&chain.finish()), Err(PackError::Depth)));

    let mut wide = Crafted::new();
    let base = wide.blob(&vec![0; 1 << 20]);
    let copies = [0xf0, 0, 0, 0x10].repeat(9); // 1 MiB each
    wide.delta(
        base,
        &[&[0x80, 0x80, 0x40, 0x80, 0x80, 0xc0, 0x04][..], &copies].concat(),
    );
    assert!(matches!(walk(&wide.finish()), Err(PackError::Whole)));

    let mut lying = Crafted::new();
    lying.entry(3, 10, &vec![0; 1 << 20]);
    assert!(matches!(walk(&lying.finish()), Err(PackError::Corrupt(_))));

    let mut tree = Crafted::new();
    tree.entry(2, usize::try_from(WHOLE_MAX).unwrap() + 1, b"");
    assert!(matches!(walk(&tree.finish()), Err(PackError::Whole)));

    let mut count = Crafted::new().finish();
    count[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    count.truncate(12);
    assert!(matches!(walk(&Crafted::sealed(count)), Err(PackError::Objects)));
}

#[test]
fn a_delta_of_itself_is_refused() {
    let mut pack = Crafted::new();
    pack.blob(b"base");
    pack.by_name(Oid([7; 20]), &[4, 4, 0x90, 4]);
    assert!(matches!(walk(&pack.finish()), Err(PackError::Thin)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// With a checksum that is right, whatever else is wrong.
    #[test]
    fn any_pack_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut pack = Crafted::new();
        let base = pack.blob(b"0123456789");
        pack.delta(base, &[10, 12, 0x90, 10, 2, b'x', b'y']);
        pack.by_name(Oid::of(Kind::Blob, b"0123456789xy"), &[12, 3, 0x90, 3]);
        let mut bytes = pack.finish();
        bytes.truncate(bytes.len() - 20);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = walk(&Crafted::sealed(bytes)); // it comes back
    }
}

#[test]
fn protected_paths_are_refused_unless_allowed() {
    let allowed = GitUse {
        protected_paths: ProtectedPaths::Allow,
        ..limits()
    };
    for (path, told) in [
        (".github/workflows/ci.yml", ".github/workflows"),
        (".gitlab-ci.yml", ".gitlab-ci.yml"),
        ("docs/CODEOWNERS", "docs/CODEOWNERS"),
        ("fleet/prod/session.yaml", "fleet/prod"),
    ] {
        let repository = Repository::new();
        repository.commit("a", b"a\n");
        repository.commit(path, b"on: push\n");
        repository.commit("b", b"b\n");
        let bytes = push(&repository.pack(&[], "HEAD\n"));
        let objection = judged(&bytes, &limits()).unwrap();
        assert!(objection.reason.contains(told), "{}", objection.reason);
        assert_eq!(judged(&bytes, &allowed), None, "{path}");
        // It's there already, and stays as it is.
        assert_eq!(
            judged(&push(&repository.pack(&[], "HEAD\n^HEAD~1\n")), &limits()),
            None,
            "{path}"
        );
    }
    // A directory that goes, by what is left of it.
    let repository = Repository::new();
    repository.commit(".github/workflows/a.yml", b"a\n");
    repository.commit(".github/workflows/b.yml", b"b\n");
    repository.git(&["rm", "--quiet", ".github/workflows/b.yml"], b"");
    repository.git(&["mv", ".github/workflows/a.yml", ".github/workflows/c.yml"], b"");
    repository.git(&["commit", "--quiet", "--message", "x"], b"");
    let moved = push(&repository.pack(&[], "HEAD\n^HEAD~1\n"));
    assert!(judged(&moved, &limits()).unwrap().reason.contains(".github/workflows"));
}

/// A request of an agent, held.
async fn hold(bytes: Vec<u8>, gzip: bool, max: u64, directory: &Path) -> Result<Verdict, Refusal> {
    let pushes = Pushes::new(directory.to_owned()).with_max(max);
    let mut request = Request::post("/me/mine.git/git-receive-pack");
    if gzip {
        request = request.header(CONTENT_ENCODING, "gzip");
    }
    let known = Vault::closed().snapshot_full();
    pushes.hold(&limits(), &known, request.body(full(bytes)).unwrap()).await
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn what_passes_is_sent_as_it_was_judged() {
    let repository = Repository::new();
    repository.commit("a", &noise(1, 30_000));
    let bytes = push(&repository.pack(&[], "HEAD\n"));
    let directory = tempfile::tempdir().unwrap();
    for (sent, coded) in [(bytes.clone(), false), (gzip(&bytes), true)] {
        let Ok(Verdict::Passed(request)) = hold(sent, coded, PUSH_MAX, directory.path()).await else {
            panic!("it didn't pass");
        };
        assert!(!request.headers().contains_key(CONTENT_ENCODING));
        assert_eq!(request.headers()[CONTENT_LENGTH], bytes.len().to_string().as_str());
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), bytes);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_too_large_is_refused_in_gits_own_words() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = push(&vec![0; 3 << 20]);
    for (sent, coded) in [(bytes.clone(), false), (gzip(&bytes), true)] {
        let Ok(Verdict::Refused { reason, response }) = hold(sent, coded, 1 << 20, directory.path()).await else {
            panic!("it passed");
        };
        assert_eq!(
            reason,
            "a push to me/mine: a push may have 1 MiB: push in smaller steps, or large files by other means"
        );
        assert_eq!(response.headers()[CONTENT_TYPE], RESULT);
        let report = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&report).contains("ng refs/heads/agent/a a push may have 1 MiB"));
    }
    // Nobody waits for what never ends.
    assert!(
        hold(push(&vec![0; 5 << 20]), false, 1 << 20, directory.path())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_coding_that_can_be_read_in_two_ways_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let whole = gzip(&push(&Crafted::new().finish()));
    for bytes in [
        [whole.as_slice(), whole.as_slice()].concat(),
        [whole.as_slice(), b"x"].concat(),
        whole[..whole.len() - 9].to_vec(),
        whole[..whole.len() - 4].to_vec(),
        b"0000".to_vec(),
    ] {
        assert!(hold(bytes, true, PUSH_MAX, directory.path()).await.is_err());
    }
}

fn low(number: usize, mask: u8) -> u8 {
    number.to_le_bytes()[0] & mask
}

/// A pack by hand.
struct Crafted {
    bytes: Vec<u8>,
    count: u32,
}

impl Crafted {
    fn new() -> Self {
        Self {
            bytes: b"PACK\0\0\0\x02\0\0\0\0".to_vec(),
            count: 0,
        }
    }

    fn header(&mut self, kind: u8, size: usize) -> usize {
        let offset = self.bytes.len();
        let mut rest = size >> 4;
        let mut byte = kind << 4 | low(size, 0x0f);
        while rest > 0 {
            self.bytes.push(byte | 0x80);
            (byte, rest) = (low(rest, 0x7f), rest >> 7);
        }
        self.bytes.push(byte);
        self.count += 1;
        offset
    }

    fn content(&mut self, content: &[u8]) {
        ZlibEncoder::new(&mut self.bytes, Compression::fast())
            .write_all(content)
            .unwrap();
    }

    fn entry(&mut self, kind: u8, size: usize, content: &[u8]) -> usize {
        let offset = self.header(kind, size);
        self.content(content);
        offset
    }

    fn blob(&mut self, content: &[u8]) -> usize {
        self.entry(3, content.len(), content)
    }

    fn delta(&mut self, base: usize, delta: &[u8]) -> usize {
        let offset = self.header(6, delta.len());
        let mut distance = offset - base;
        let mut digits = vec![low(distance, 0x7f)];
        while distance > 0x7f {
            distance = (distance >> 7) - 1;
            digits.push(0x80 | low(distance, 0x7f));
        }
        digits.reverse();
        self.bytes.extend_from_slice(&digits);
        self.content(delta);
        offset
    }

    fn by_name(&mut self, base: Oid, delta: &[u8]) {
        self.header(7, delta.len());
        self.bytes.extend_from_slice(&base.0);
        self.content(delta);
    }

    /// A delta that appends to `content` with `extra` bytes more.
    fn append(content: &[u8], extra: usize, end: &[u8]) -> Vec<u8> {
        let mut delta = Vec::new();
        let size = content.len() + extra;
        for mut size in [size, size + end.len()] {
            while size > 0x7f {
                delta.push(0x80 | low(size, 0x7f));
                size >>= 7;
            }
            delta.push(low(size, 0x7f));
        }
        let mut at = 0_usize;
        while at < size {
            let length = (size - at).min(0xff_0000);
            let (offset, length) = (at.to_le_bytes(), length.to_le_bytes());
            delta.push(0xff);
            delta.extend_from_slice(&offset[..4]);
            delta.extend_from_slice(&length[..3]);
            at += usize::from_le_bytes(length);
        }
        delta.push(low(end.len(), 0x7f));
        delta.extend_from_slice(end);
        delta
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes[8..12].copy_from_slice(&self.count.to_be_bytes());
        Self::sealed(self.bytes)
    }

    /// With the checksum at its end.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &bytes);
        bytes.extend_from_slice(digest.as_ref());
        bytes
    }
}
