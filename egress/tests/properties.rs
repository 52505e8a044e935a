//! Properties: parsers have one canonical form, and matchers agree with a naive reference.

use berth_egress::authority::{Authority, Host};
use berth_egress::path::Target;
use berth_egress::pattern::{HostPattern, PathPattern};
use proptest::prelude::*;

/// `**` is one or more labels, `*` is one; compared from the right, without the crate's own tricks.
fn host_reference(pattern: &str, host: &str) -> bool {
    let labels: Vec<&str> = host.split('.').collect();
    let mut wanted: Vec<&str> = pattern.split('.').collect();
    let first = wanted.remove(0);
    let wild = first == "*" || first == "**";
    if !wild {
        return pattern == host;
    }
    let extra = labels.len().saturating_sub(wanted.len());
    labels.ends_with(&wanted) && (extra == 1 || (extra > 1 && first == "**"))
}

/// Segment by segment; `*` isn't empty, `**` is one or more.
fn path_reference(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) | (["**"], [_, ..]) => true,
        (["*", pattern @ ..], [segment, path @ ..]) => !segment.is_empty() && path_reference(pattern, path),
        ([literal, pattern @ ..], [segment, path @ ..]) => literal == segment && path_reference(pattern, path),
        _ => false,
    }
}

/// What the most obliging server makes of a path: decodes all, drops parameters, merges slashes, resolves dots.
fn obliging_server(path: &str, decodings: usize) -> Option<Vec<String>> {
    let mut text = path.as_bytes().to_vec();
    for _ in 0..decodings {
        text = percent_encoding::percent_decode(&text).collect();
    }
    let text = String::from_utf8_lossy(&text).replace('\\', "/");
    let mut kept = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                kept.pop()?;
            }
            segment => kept.push(segment.to_owned()),
        }
    }
    Some(kept)
}

fn raw_path() -> impl Strategy<Value = String> {
    let pieces = vec![
        "a",
        "b",
        "/",
        "/",
        "/",
        "..",
        ".",
        "%2e",
        "%2E",
        "%2f",
        "%2F",
        "%5c",
        ";",
        "%3b",
        "%25",
        "2e",
        "2f",
        "%00",
        "%c0%ae",
        "%41",
        "~",
        "{",
        "%e2%82%ac",
        "@",
        "x=1",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn path_pattern() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "*"]);
    let end = prop::sample::select(vec!["", "/", "/**"]);
    (prop::collection::vec(segment, 0..4), end).prop_filter_map("a pattern", |(segments, end)| {
        let start = if segments.is_empty() { "" } else { "/" };
        let text = format!("{start}{}{end}", segments.join("/"));
        (!text.is_empty()).then_some(text)
    })
}

/// All paths of up to four segments, each `a`, `b`, `c` or, at the end, empty.
fn all_paths() -> Vec<String> {
    let mut paths = vec![String::new()];
    let mut all = Vec::new();
    for _ in 0..5 {
        all.extend(paths.iter().map(|path| format!("{path}/")));
        paths = paths
            .iter()
            .flat_map(|path| ["a", "b", "c"].map(|segment| format!("{path}/{segment}")))
            .collect();
        all.extend(paths.iter().cloned());
    }
    all
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn an_authority_is_displayed_as_it_is_parsed(text in AUTHORITY) {
        let Ok(authority) = Authority::from_host_header(&text, 443) else { return Ok(()) };
        let shown = authority.to_string();
        prop_assert_eq!(Authority::from_connect(&shown), Ok(authority.clone()));
        prop_assert_eq!(Host::parse(&authority.host.to_string()), Ok(authority.host));
        prop_assert_eq!(shown.to_ascii_lowercase(), shown);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC*|[ -~]{0,40}") {
        let _ = Authority::from_connect(&text);
        let _ = HostPattern::parse(&text);
        let _ = PathPattern::parse(&text);
        if let Ok(target) = Target::parse(&text) {
            prop_assert!(target.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }

    #[test]
    fn a_canonical_path_is_its_own_canonical_path(raw in raw_path(), pattern in path_pattern()) {
        let Ok(once) = Target::parse(&raw) else { return Ok(()) };
        let twice = Target::parse(once.path.as_str());
        prop_assert_eq!(twice.as_ref(), Ok(&once));
        let pattern = PathPattern::parse(&pattern).expect("a pattern");
        prop_assert_eq!(pattern.matches(&once.path), twice.is_ok_and(|twice| pattern.matches(&twice.path)));
    }

    #[test]
    fn no_server_reads_a_matched_path_as_one_outside(raw in raw_path(), decodings in 0_usize..3) {
        let Ok(target) = Target::parse(&format!("/a{raw}")) else { return Ok(()) };
        let pattern = PathPattern::parse("/a/**").expect("a pattern");
        if pattern.matches(&target.path) {
            let read = obliging_server(target.path.as_str(), decodings);
            let first = read.as_ref().and_then(|read| read.first());
            prop_assert_eq!(first.map(String::as_str), Some("a"), "{} as {:?}", target.path, read);
        }
    }

    #[test]
    fn path_patterns_agree_with_the_reference(pattern in path_pattern(), raw in raw_path()) {
        let parsed = PathPattern::parse(&pattern).expect("a pattern");
        let Ok(target) = Target::parse(&raw) else { return Ok(()) };
        let wanted: Vec<&str> = pattern[1..].split('/').collect();
        let actual: Vec<&str> = target.path.segments().collect();
        let expected = path_reference(&wanted, &actual);
        prop_assert_eq!(parsed.matches(&target.path), expected, "{} and {}", pattern, target.path);
    }

    #[test]
    fn host_patterns_agree_with_the_reference(
        wild in prop::sample::select(vec!["", "*.", "**."]),
        base in "(a|b|ab)(\\.(a|b)){0,2}\\.example\\.com",
        host in "((a|b|ab|bab)\\.){0,5}(example|aexample|example\\.com)\\.com",
    ) {
        let pattern = format!("{wild}{base}");
        let parsed = HostPattern::parse(&pattern).expect("a pattern");
        let name = Host::parse(&host).expect("a host");
        prop_assert_eq!(parsed.matches(&name), host_reference(&pattern, &host), "{} and {}", pattern, host);
        prop_assert_eq!(HostPattern::parse(&parsed.to_string()), Ok(parsed));
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn path_patterns_overlap_where_some_path_matches_both(one in path_pattern(), two in path_pattern()) {
        let [left, right] = [&one, &two].map(|text| PathPattern::parse(text).expect("a pattern"));
        let shared = all_paths().into_iter().find(|path| {
            let path = Target::parse(path).expect("a path").path;
            left.matches(&path) && right.matches(&path)
        });
        prop_assert_eq!(left.overlaps(&right), shared.is_some(), "{} and {}", one, two);
        prop_assert_eq!(right.overlaps(&left), left.overlaps(&right));
    }

    #[test]
    fn host_patterns_overlap_where_some_host_matches_both(
        one in "(\\*\\.|\\*\\*\\.)?(a\\.|b\\.){0,2}example\\.com",
        two in "(\\*\\.|\\*\\*\\.)?(a\\.|b\\.){0,2}example\\.com",
    ) {
        let [left, right] = [&one, &two].map(|text| HostPattern::parse(text).expect("a pattern"));
        let mut hosts = vec!["example.com".to_owned()];
        for _ in 0..4 {
            let longer = hosts.iter().flat_map(|host| ["a", "b"].map(|label| format!("{label}.{host}")));
            hosts = longer.chain(hosts.clone()).collect();
        }
        let mut hosts = hosts.iter().map(|host| Host::parse(host).expect("a host"));
        let shared = hosts.find(|host| left.matches(host) && right.matches(host));
        prop_assert_eq!(left.overlaps(&right), shared.is_some(), "{} and {}", one, two);
    }
}

/// Names, IPv4 and IPv6 addresses, with and without ports, and what looks like them.
const AUTHORITY: &str = "[a-cA-C0-9x.:\\[\\]-]{1,20}|[0-9.]{7,15}(:[0-9]{1,5})?|\\[[0-9a-fA-F:]{2,20}\\](:[0-9]{1,5})?";
