//! Pure: text that looks like a credential, or is one of the session's.
//!
//! Shapes are those that issuers document so that scanners find them; the table says which. Values of the session are
//! found in every form of [`Patterns`], stubs as they are. What is split, encrypted, compressed or encoded (the shapes;
//! values are found in base64, hex and the like) isn't found.

use std::sync::Arc;

use aho_corasick::AhoCorasick;
use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;

use crate::redact::Patterns;

/// A shape.
struct Shape {
    /// What it is, for people.
    what: &'static str,
    /// How it looks.
    pattern: &'static str,
}

/// Something that may not leave.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Found {
    /// Line, from 1.
    pub line: usize,
    /// What it looks like.
    pub rule: &'static str,
}

/// A scanner that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ScannerError {
    /// The shapes.
    #[error("the shapes of secrets can't be compiled")]
    Shapes(#[from] Box<BuildError>),
    /// The stubs.
    #[error("the stubs can't be compiled")]
    Stubs(#[from] Box<aho_corasick::BuildError>),
}

/// Looks for all of it.
pub struct Scanner {
    shapes: Regex,
    patterns: Option<Arc<Patterns>>,
    stubs: AhoCorasick,
}

/// Looks at a text that comes in parts.
pub struct Parts<'a> {
    scanner: &'a Scanner,
    /// What is looked at again with the next part, since something may begin there.
    kept: Vec<u8>,
    /// Line ends before it.
    lines: usize,
    found: Vec<Found>,
}

impl Scanner {
    /// For these values and stubs.
    pub fn new<'a>(
        patterns: Option<Arc<Patterns>>,
        stubs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ScannerError> {
        let shapes = Regex::builder()
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .build_many(&SHAPES.map(|shape| shape.pattern));
        let stubs = AhoCorasick::new(stubs.into_iter().filter(|stub| !stub.is_empty()));
        Ok(Self {
            shapes: shapes.map_err(Box::new)?,
            patterns,
            stubs: stubs.map_err(Box::new)?,
        })
    }

    /// What a whole text holds, the first [`FOUND_MAX`].
    pub fn scan(&self, text: &[u8]) -> Vec<Found> {
        let at = |offset: usize, rule| Found {
            line: 1 + line_ends(&text[..offset]),
            rule,
        };
        let mut found = Vec::new();
        found.extend(self.value(text));
        found.extend(self.stubs.find(text).map(|stub| at(stub.start(), STUB)));
        let shapes = self.shapes.find_iter(text).take(FOUND_MAX);
        found.extend(shapes.map(|shape| at(shape.start(), SHAPES[shape.pattern().as_usize()].what)));
        found
    }

    /// Begins a text that comes in parts.
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            scanner: self,
            kept: Vec::new(),
            lines: 0,
            found: Vec::new(),
        }
    }

    /// The line of the first value of the session: where the text up to a line's end holds one and up to the line
    /// before doesn't.
    fn value(&self, text: &[u8]) -> Option<Found> {
        let patterns = self.patterns.as_ref()?;
        if !patterns.occur_in(text) {
            return None;
        }
        let ends = text
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .map(|(end, _)| end);
        let ends: Vec<usize> = ends.chain([text.len()]).collect();
        let before = ends.partition_point(|end| !patterns.occur_in(&text[..*end]));
        Some(Found {
            line: before + 1,
            rule: VALUE,
        })
    }

    fn overlap(&self) -> usize {
        let longest = self.patterns.as_ref().map_or(0, |patterns| patterns.longest());
        longest.max(SHAPE_MAX) + 1
    }
}

impl Parts<'_> {
    /// Takes a part.
    pub fn push(&mut self, part: &[u8]) {
        self.kept.extend_from_slice(part);
        if self.kept.len() >= PART_MIN + self.scanner.overlap() {
            self.look(self.scanner.overlap());
        }
    }

    /// What the whole text holds.
    pub fn finish(mut self) -> Vec<Found> {
        self.look(0);
        self.found
    }

    fn look(&mut self, keep: usize) {
        for found in self.scanner.scan(&self.kept) {
            let found = Found {
                line: self.lines + found.line,
                ..found
            };
            if self.found.len() < FOUND_MAX && !self.found.contains(&found) {
                self.found.push(found);
            }
        }
        let done = self.kept.len().saturating_sub(keep);
        self.lines += line_ends(&self.kept[..done]);
        self.kept.drain(..done);
    }
}

fn line_ends(text: &[u8]) -> usize {
    text.split(|byte| *byte == b'\n').skip(1).count()
}

const VALUE: &str = "the real value of a credential of this session";
const STUB: &str = "the stub of a credential of this session";
/// Enough to see what is the matter.
const FOUND_MAX: usize = 5;
/// What is looked at once when a text comes in parts.
const PART_MIN: usize = 256 << 10;
/// Of a shape across two parts; a longer JWT, in a file of more than 8 MiB, may be missed there.
const SHAPE_MAX: usize = 8 << 10;

/// By their issuers' documentation of token formats; `(?-u)` throughout, so `\b` is ASCII's.
const SHAPES: [Shape; 22] = [
    Shape {
        what: "a GitHub token",
        pattern: r"\bgh[pousr]_[A-Za-z0-9]{36}",
    },
    Shape {
        what: "a fine-grained GitHub token",
        pattern: r"\bgithub_pat_[A-Za-z0-9_]{60}",
    },
    Shape {
        what: "a GitLab token",
        pattern: r"\bgl(?:pat|ptt|dt|rt|soat|cbt|oas|ft|imt|agent)-[A-Za-z0-9_-]{20}",
    },
    Shape {
        what: "an AWS access key with its secret",
        pattern: r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b[\s\S]{1,200}?[^A-Za-z0-9/+][A-Za-z0-9/+]{40}(?:[^A-Za-z0-9/+=]|\z)",
    },
    Shape {
        what: "an AWS secret access key",
        pattern: r#"(?:secret_access_key|SECRET_ACCESS_KEY|ecretAccessKey|secretaccesskey)["']?\s{0,8}[:=]\s{0,8}["']?[A-Za-z0-9/+]{40}\b"#,
    },
    Shape {
        what: "a Slack token",
        pattern: r"\bxox[abceoprs]-[A-Za-z0-9-]{10,}",
    },
    Shape {
        what: "a Slack app token",
        pattern: r"\bxapp-[0-9]-[A-Z0-9]{8,}-[0-9]{8,}-[A-Za-z0-9]{16,}",
    },
    Shape {
        what: "a Google API key",
        pattern: r"\bAIza[A-Za-z0-9_-]{35}",
    },
    Shape {
        what: "a Google OAuth client secret",
        pattern: r"\bGOCSPX-[A-Za-z0-9_-]{28}",
    },
    Shape {
        what: "an Anthropic API key",
        pattern: r"\bsk-ant-[A-Za-z0-9_-]{20}",
    },
    Shape {
        what: "an API key of OpenAI's shape",
        pattern: r"\bsk-(?:(?:proj|svcacct|admin|or-v1|litellm)-[A-Za-z0-9_-]{20}|[A-Za-z0-9]{20})",
    },
    Shape {
        what: "an npm token",
        pattern: r"\bnpm_[A-Za-z0-9]{36}",
    },
    Shape {
        what: "a PyPI token",
        pattern: r"\bpypi-AgE[A-Za-z0-9_-]{40}",
    },
    Shape {
        what: "a Stripe live key",
        pattern: r"\b[rs]k_live_[A-Za-z0-9]{10}",
    },
    Shape {
        what: "a private key",
        pattern: r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----",
    },
    Shape {
        what: "a JSON Web Token",
        pattern: r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10}",
    },
    Shape {
        what: "a Docker Hub token",
        pattern: r"\bdckr_(?:pat|oat)_[A-Za-z0-9_-]{27}",
    },
    Shape {
        what: "a Hugging Face token",
        pattern: r"\bhf_[A-Za-z]{34}",
    },
    Shape {
        what: "a DigitalOcean token",
        pattern: r"\bdo[oprt]_v1_[a-f0-9]{64}",
    },
    Shape {
        what: "a Vault token",
        pattern: r"\bhv[bs]\.[A-Za-z0-9_-]{24}",
    },
    Shape {
        what: "a SendGrid key",
        pattern: r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    },
    Shape {
        what: "an age secret key",
        pattern: r"\bAGE-SECRET-KEY-1[0-9A-Z]{58}",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE_TEXT: &str = "fake-value-of-this-session-0123";
    const STUB_TEXT: &str = "stub_fake_0123456789abcdef0123";

    fn scanner() -> Scanner {
        let patterns = Patterns::new([("TOKEN", VALUE_TEXT.as_bytes(), STUB_TEXT)]).unwrap();
        Scanner::new(Some(Arc::new(patterns)), [STUB_TEXT]).unwrap()
    }

    fn fake(length: usize) -> String {
        "Fake0".chars().cycle().take(length).collect()
    }

    /// Put together here, so that no scanner takes this file for a leak.
    fn samples() -> Vec<(String, &'static str)> {
        let jwt = format!("eyJ{}.eyJ{}.{}", fake(20), fake(20), fake(20));
        let all = [
            format!("gh{}_{}", 'p', fake(36)),
            format!("github{}_{}", "_pat", fake(82)),
            format!("gl{}-{}", "pat", fake(20)),
            format!("AK{}{}\nkey: {}\n", "IA", fake(16).to_uppercase(), fake(40)),
            format!("aws_{} = \"{}\"", "secret_access_key", fake(40)),
            format!("xo{}-{}", "xb", fake(12)),
            format!("xa{}-1-A0FAKEFAKE-0123456789-{}", "pp", fake(20)),
            format!("AI{}{}", "za", fake(35)),
            format!("GOC{}-{}", "SPX", fake(28)),
            format!("sk-{}-{}", "ant", fake(40)),
            format!("sk-{}-{}", "proj", fake(40)),
            format!("np{}_{}", 'm', fake(36)),
            format!("pypi-{}{}", "AgE", fake(60)),
            format!("sk_{}_{}", "live", fake(24)),
            format!("-----BEGIN {} KEY-----", "RSA PRIVATE"),
            jwt,
            format!("dckr_{}_{}", "pat", fake(27)),
            format!("h{}_{}", 'f', "Fake".repeat(9)),
            format!("dop_{}_{}", "v1", "fa0e".repeat(16)),
            format!("hv{}.{}", 's', fake(24)),
            format!("S{}.{}.{}", 'G', fake(22), fake(43)),
            format!("AGE-{}-KEY-1{}", "SECRET", fake(58).to_uppercase()),
        ];
        all.into_iter().zip(SHAPES.map(|shape| shape.what)).collect()
    }

    #[test]
    fn every_shape_is_found_with_its_line() {
        let scanner = scanner();
        for (sample, what) in samples() {
            let text = format!("first\n\"x={sample}\"\nlast\n");
            assert_eq!(scanner.scan(text.as_bytes()), [Found { line: 2, rule: what }], "{what}");
        }
        assert_eq!(samples().len(), SHAPES.len());
    }

    #[test]
    fn ordinary_text_holds_nothing() {
        let text = "sk-circle-fade-dot task-0123456789012345678901234567890 AKIA is a prefix; eyJ is base64 of {\" \
                    -----BEGIN PUBLIC KEY----- -----BEGIN PGP SIGNATURE----- npm_config_registry ghp_short \
                    2aae6c35c94fcfb415dbe95f408b9ce91ee846ed";
        assert_eq!(scanner().scan(text.as_bytes()), []);
    }

    #[test]
    fn values_and_stubs_of_the_session_are_found() {
        use base64::Engine as _;
        let encoded = base64::prelude::BASE64_STANDARD.encode(format!("x:{VALUE_TEXT}"));
        let scanner = scanner();
        for value in [VALUE_TEXT.to_owned(), encoded, hex::encode(VALUE_TEXT)] {
            let text = format!("a\nb\n\nauth={value}\nc\n");
            assert_eq!(
                scanner.scan(text.as_bytes()),
                [Found { line: 4, rule: VALUE }],
                "{value}"
            );
        }
        let text = format!("a\n{STUB_TEXT}");
        assert_eq!(scanner.scan(text.as_bytes()), [Found { line: 2, rule: STUB }]);
    }

    #[test]
    fn a_text_in_parts_is_as_the_whole() {
        let scanner = scanner();
        let token = &samples()[0].0;
        for at in [
            0,
            PART_MIN - 20,
            PART_MIN + SHAPE_MAX - 20,
            PART_MIN + SHAPE_MAX,
            3 * PART_MIN,
        ] {
            let mut text = vec![b'\n'; at];
            text.extend_from_slice(token.as_bytes());
            text.extend_from_slice(&vec![b'\n'; PART_MIN]);
            for size in [PART_MIN / 3, 65_536, 1_000_003] {
                let mut parts = scanner.parts();
                text.chunks(size).for_each(|part| parts.push(part));
                assert_eq!(parts.finish(), scanner.scan(&text), "{at} {size}");
            }
        }
    }
}
