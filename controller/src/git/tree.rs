//! Reads the files of a commit from the object database: never a checkout, so nothing in a tree names a path of ours.

use git2::{ObjectType, Repository, Tree, TreeEntry};
use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// The files of a tip.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Readable ones.
    pub read: Vec<File>,
    /// Paths that can't be read, and why.
    pub refused: Vec<(String, String)>,
}

/// One file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Path in the repository.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// Which paths are read.
pub struct Paths {
    include: GlobSet,
    exclude: GlobSet,
}

impl Paths {
    /// Paths by globs; every manifest when none is included by name. Whatever the globs name, only YAML and JSON is read.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, String> {
        let all = ["**".to_owned()];
        let include = if include.is_empty() { &all[..] } else { include };
        Ok(Self {
            include: globs("include", include)?,
            exclude: globs("exclude", exclude)?,
        })
    }

    /// Whether a file of this path is read.
    pub fn wanted(&self, path: &str) -> bool {
        let manifest = [".yaml", ".yml", ".json"]
            .iter()
            .any(|extension| path.ends_with(extension));
        manifest && self.include.is_match(path) && !self.exclude.is_match(path)
    }
}

fn globs(field: &str, patterns: &[String]) -> Result<GlobSet, String> {
    let glob = |pattern: &String| -> Result<Glob, String> {
        let built = GlobBuilder::new(pattern).literal_separator(true).build();
        built.map_err(|error| format!("spec.{field}: {error}"))
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(glob(pattern)?);
    }
    set.build().map_err(|error| format!("spec.{field}: {error}"))
}

/// Text of every wanted file, and what was refused. A tree beyond the bounds is refused whole.
pub fn read(repository: &Repository, tree: &Tree<'_>, paths: &Paths) -> Result<Files, String> {
    let mut reader = Reader {
        repository,
        paths,
        entries: 0,
        bytes: 0,
        files: Files::default(),
    };
    reader.folder(tree, "", 0)?;
    Ok(reader.files)
}

struct Reader<'a> {
    repository: &'a Repository,
    paths: &'a Paths,
    entries: usize,
    bytes: usize,
    files: Files,
}

impl Reader<'_> {
    fn folder(&mut self, tree: &Tree<'_>, under: &str, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("{under}: folders are nested deeper than {DEPTH_MAX}"));
        }
        for entry in tree {
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(format!(
                    "the tree has more than {ENTRIES_MAX} files; narrow the repository"
                ));
            }
            self.entry(&entry, under, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &TreeEntry<'_>, under: &str, depth: usize) -> Result<(), String> {
        let name = entry.name().map_err(|_utf8| format!("{under}: a name isn't UTF-8"))?;
        let path = if under.is_empty() {
            name.to_owned()
        } else {
            format!("{under}/{name}")
        };
        let odd = name.is_empty() || name == "." || name == ".." || name.contains('/') || name.contains('\\');
        if odd {
            self.files
                .refused
                .push((path, "the name can't be a file's; rename it".to_owned()));
            return Ok(());
        }
        match entry.kind() {
            Some(ObjectType::Tree) => {
                let Some(tree) = entry
                    .to_object(self.repository)
                    .ok()
                    .and_then(|object| object.into_tree().ok())
                else {
                    return Err(format!("{path}: the folder can't be read"));
                };
                self.folder(&tree, &path, depth + 1)
            }
            Some(ObjectType::Blob) if self.paths.wanted(&path) => self.file(entry, path),
            Some(ObjectType::Commit) if self.paths.wanted(&format!("{path}/a.yaml")) => {
                self.files
                    .refused
                    .push((path, "submodules aren't followed; name them in spec.exclude".to_owned()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, entry: &TreeEntry<'_>, path: String) -> Result<(), String> {
        if entry.filemode() == SYMLINK {
            self.files.refused.push((
                path,
                "symbolic links aren't followed; commit the file itself".to_owned(),
            ));
            return Ok(());
        }
        let size = self
            .repository
            .odb()
            .and_then(|odb| odb.read_header(entry.id()))
            .map_or(0, |(size, _)| size);
        if size > FILE_MAX {
            self.files
                .refused
                .push((path, format!("the file has {size} bytes; at most {FILE_MAX} are read")));
            return Ok(());
        }
        self.bytes += size;
        if self.bytes > BYTES_MAX {
            return Err(format!(
                "manifests of more than {} MiB; narrow spec.include",
                BYTES_MAX >> 20
            ));
        }
        let blob = self.repository.find_blob(entry.id());
        match blob.map(|blob| String::from_utf8(blob.content().to_vec())) {
            Ok(Ok(text)) => self.files.read.push(File { path, text }),
            Ok(Err(_)) => self.files.refused.push((path, "the file isn't UTF-8".to_owned())),
            Err(error) => self
                .files
                .refused
                .push((path, format!("the file can't be read: {}", error.message()))),
        }
        Ok(())
    }
}

const SYMLINK: i32 = 0o120_000;
/// DESIGN §4.
pub(super) const FILE_MAX: usize = 1 << 20;
/// DESIGN §4.
const ENTRIES_MAX: usize = 50_000;
/// Sixteen largest files; it is held in memory once while it is read.
const BYTES_MAX: usize = 16 << 20;
/// Deeper than any repository of manifests, far from the end of the stack.
const DEPTH_MAX: usize = 32;
