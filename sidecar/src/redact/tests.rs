//! The stream and its patterns against a search that is slow and plain.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::pattern::{Patterns, Secret, Width};
use super::shape::Shape;
use super::stream::Redactor;
use super::variant::{VARIANTS_MAX, variants};

/// Every kind of byte that some encoding treats in its own way.
const ODD: &str = "fake\"/<&+ k'ey=9~Z*(@\\\u{e9}";
const PLAIN: &str = "fake-Token_0123456789abcdef";
const STUB: &str = "stub-1234";

fn secret(value: &str) -> Secret<'_> {
    Secret {
        name: "fake",
        value: value.as_bytes(),
        stub: STUB,
        user: Some("octocat"),
    }
}

fn patterns(values: &[&str]) -> Arc<Patterns> {
    Arc::new(Patterns::new(values.iter().map(|value| secret(value))).unwrap())
}

/// What each push released, and the rest.
fn redact_chunks<'a>(patterns: &Arc<Patterns>, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, u64) {
    let mut redactor = Redactor::new(Arc::clone(patterns), Width::Free);
    let mut released: Vec<_> = chunks
        .into_iter()
        .map(|chunk| redactor.push(Bytes::copy_from_slice(chunk)).concat())
        .collect();
    let (rest, count) = redactor.finish();
    released.push(rest.to_vec());
    (released, count)
}

fn whole(patterns: &Arc<Patterns>, text: &[u8]) -> (Vec<u8>, u64) {
    let (released, count) = redact_chunks(patterns, [text]);
    (released.concat(), count)
}

/// Cuts a text at (some of) the given points.
fn cut<'a>(text: &'a [u8], points: &[usize]) -> Vec<&'a [u8]> {
    let mut points: Vec<_> = points.iter().map(|point| point % (text.len() + 1)).collect();
    points.extend([0, text.len()]);
    points.sort_unstable();
    points.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// The longest at each position, by trying every pattern there; of those that overlap, where the first begins, where
/// it ends, and where the last ends.
fn search_slowly(forms: &[Vec<u8>], text: &[u8]) -> Vec<(usize, usize, usize)> {
    let mut found: Vec<(usize, usize, usize)> = Vec::new();
    for at in 0..text.len() {
        let here = forms.iter().filter(|form| text[at..].starts_with(form));
        let Some(end) = here.map(|form| at + form.len()).max() else {
            continue;
        };
        match found.last_mut() {
            Some((_, _, last)) if at < *last => *last = end.max(*last),
            _ => found.push((at, end, end)),
        }
    }
    found
}

fn forms(values: &[&str]) -> Vec<Vec<u8>> {
    let variants = values.iter().flat_map(|value| variants(&secret(value)));
    variants.map(|variant| variant.bytes.to_vec()).collect()
}

#[test]
fn every_encoding_is_found_at_every_split() {
    for value in [ODD, PLAIN] {
        let patterns = patterns(&[value]);
        for variant in variants(&secret(value)) {
            let text = [b"{ \"a\": ", variant.bytes.as_slice(), b", }~~~"].concat();
            let (expected, count) = whole(&patterns, &text);
            let shown = String::from_utf8_lossy(&text);
            assert_eq!(count, 1, "{shown}");
            assert!(!patterns.occur_in(&expected), "{shown}");
            assert!(
                expected.starts_with(b"{ \"a\": ") && expected.ends_with(b", }~~~"),
                "{shown}"
            );
            for point in 0..=text.len() {
                let (left, right) = text.split_at(point);
                assert_eq!(
                    redact_chunks(&patterns, [left, right]).0.concat(),
                    expected,
                    "{shown} at {point}"
                );
            }
            assert_eq!(redact_chunks(&patterns, text.chunks(1)).0.concat(), expected, "{shown}");
        }
    }
}

#[test]
fn encodings_are_those_of_other_peoples_libraries() {
    let patterns = patterns(&[ODD]);
    let table = [
        // Python: urllib.parse.quote, quote(safe=''), quote_plus; JavaScript: encodeURIComponent, encodeURI.
        "fake%22/%3C%26%2B%20k%27ey%3D9~Z%2A%28%40%5C%C3%A9",
        "fake%22%2F%3C%26%2B%20k%27ey%3D9~Z%2A%28%40%5C%C3%A9",
        "fake%22%2F%3C%26%2B+k%27ey%3D9~Z%2A%28%40%5C%C3%A9",
        "fake%22%2F%3C%26%2B%20k'ey%3D9~Z*(%40%5C%C3%A9",
        "fake%22/%3C&+%20k'ey=9~Z*(@%5C%C3%A9",
        "fake%22%2f%3c%26%2b%20k%27ey%3d9~Z%2a%28%40%5c%c3%a9",
        // JSON: Python, Go, JavaScript, PHP.
        r#"fake\"/<&+ k'ey=9~Z*(@\\\u00e9"#,
        r#"fake\"/\u003c\u0026+ k'ey=9~Z*(@\\é"#,
        r#"fake\"/<&+ k'ey=9~Z*(@\\é"#,
        r#"fake\"\/<&+ k'ey=9~Z*(@\\\u00e9"#,
        // HTML: Python, Go.
        "fake&quot;/&lt;&amp;+ k&#x27;ey=9~Z*(@\\é",
        "fake&#34;/&lt;&amp;+ k&#39;ey=9~Z*(@\\é",
        "66616b65222f3c262b206b2765793d397e5a2a28405cc3a9",
        "66616B65222F3C262B206B2765793D397E5A2A28405CC3A9",
    ];
    for text in table {
        let (redacted, count) = whole(&patterns, text.as_bytes());
        assert_eq!((count, patterns.occur_in(&redacted)), (1, false), "{text}");
        assert!(!String::from_utf8_lossy(&redacted).contains("ey"), "{text}");
    }
}

#[test]
fn base64_is_found_at_every_alignment() {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    let patterns = patterns(&[PLAIN, ODD]);
    for value in [PLAIN, ODD] {
        for lead in 0..7 {
            for tail in 0..4 {
                let text = format!("{}{value}{}", &"abcdefg"[..lead], &"wxyz"[..tail]);
                for encoded in [STANDARD.encode(&text), URL_SAFE.encode(&text)] {
                    let (redacted, count) = whole(&patterns, encoded.as_bytes());
                    assert_eq!(count, 1, "{text}");
                    assert_eq!(redacted.len(), encoded.len(), "{text}");
                }
            }
        }
    }
}

/// Replaced one after the other, the second would keep all but the bytes that they share.
#[test]
fn of_secrets_that_overlap_nothing_is_left() {
    let (one, other) = ("fake-value-that-ends-in-fake", "fake-value-of-another");
    let patterns = patterns(&[one, other]);
    let text = format!("<{one}-value-of-another>");
    for width in [Width::Free, Width::Kept] {
        for point in 0..=text.len() {
            let (left, right) = text.split_at(point);
            let mut redactor = Redactor::new(Arc::clone(&patterns), width);
            let mut given = redactor.push(Bytes::copy_from_slice(left.as_bytes())).concat();
            given.extend(redactor.push(Bytes::copy_from_slice(right.as_bytes())).concat());
            let (rest, count) = redactor.finish();
            given.extend(rest);
            let given = String::from_utf8(given).unwrap();
            assert_eq!(count, 1, "{given}");
            match width {
                Width::Free => assert_eq!(given, format!("<{STUB}>")),
                Width::Kept => assert!(given.len() == text.len() && !given.contains("value"), "{given}"),
            }
        }
    }
}

#[test]
fn a_match_across_the_held_tail_is_replaced_whole() {
    let patterns = patterns(&[PLAIN]);
    // Long enough that positions, not delimiters, decide.
    let text = [&[b'a'; 1000][..], PLAIN.as_bytes(), &[b'b'; 1000]].concat();
    for chunk in [1, 7, 161, 162, 163, 1003] {
        let (released, count) = redact_chunks(&patterns, text.chunks(chunk));
        assert_eq!(count, 1);
        assert_eq!(
            released.concat(),
            [&[b'a'; 1000][..], STUB.as_bytes(), &[b'b'; 1000]].concat()
        );
    }
}

#[test]
fn a_chunk_that_holds_nothing_is_not_copied() {
    let patterns = patterns(&[PLAIN]);
    let chunk = Bytes::from(vec![b'a'; 64 * 1024]);
    let mut redactor = Redactor::new(Arc::clone(&patterns), Width::Free);
    for _ in 0..3 {
        let released = redactor.push(chunk.clone());
        let last = released.last().unwrap();
        let range = chunk.as_ptr_range();
        assert!(range.contains(&last.as_ptr()) && last.len() > 60 * 1024);
    }
}

#[test]
fn a_line_is_released_at_once() {
    let mut redactor = Redactor::new(patterns(&[PLAIN]), Width::Free);
    assert_eq!(
        redactor.push(Bytes::from_static(b"data: hello\n\nda")).concat(),
        b"data: hello\n\n"
    );
    assert!(redactor.push(Bytes::from_static(b"ta:")).concat().ends_with(b":"));
}

#[test]
fn stubs_stand_where_they_fit_and_markers_elsewhere() {
    let all = Arc::new(
        Patterns::new([
            Secret {
                stub: "stub 2",
                ..secret(ODD)
            },
            secret(PLAIN),
        ])
        .unwrap(),
    );
    let redacted = |text: &str| String::from_utf8(whole(&all, text.as_bytes()).0).unwrap();
    assert_eq!(redacted(PLAIN), STUB);
    assert_eq!(redacted(ODD), "stub 2");
    assert_eq!(redacted("fake&#34;/&lt;&amp;+ k&#39;ey=9~Z*(@\\é"), "REDACTED");
    assert_eq!(
        redacted("%66%61%6B%65%2D%54%6F%6B%65%6E%5F%30%31%32%33%34%35%36%37%38%39%61%62%63%64%65%66"),
        STUB
    );
    assert_eq!(
        redacted("Basic b2N0b2NhdDpmYWtlLVRva2VuXzAxMjM0NTY3ODlhYmNkZWY="),
        "Basic b2N0b2NhdDpzdHViLTEyMzQ="
    );
    assert_eq!(
        redacted("66616b652d546f6b656e5f303132333435363738396162636465660a"),
        format!("{}0a", "0".repeat(54))
    );
}

#[test]
fn a_newline_at_the_end_of_a_value_is_not_part_of_it() {
    let patterns = patterns(&["fake-Token_0123456789abcdef\r\n"]);
    assert_eq!(
        whole(&patterns, format!("<{PLAIN}>").as_bytes()),
        (format!("<{STUB}>").into_bytes(), 1)
    );
    assert!(patterns.shape().delimiters()[usize::from(b'\n')]);
}

#[test]
fn kept_width_keeps_every_length() {
    let patterns = patterns(&[ODD, PLAIN]);
    for form in forms(&[ODD, PLAIN]) {
        let (text, count) = patterns.redact(&form, Width::Kept).unwrap();
        assert_eq!((text.len(), count), (form.len(), 1));
        assert!(!patterns.occur_in(&text));
    }
}

#[test]
fn values_that_cannot_be_told_apart_are_not_taken() {
    let refused = |value: &[u8]| Patterns::new([("the-name", value, STUB)]).unwrap_err().to_string();
    assert!(refused(b"1234567").contains("the-name"));
    assert!(refused(&[b'x'; 8193]).contains("the-name"));
    assert!(Patterns::new(vec![("n", PLAIN.as_bytes(), STUB); 10_001]).is_err());
    assert!(refused(b"1234567\n").contains("the-name"));
    let none = Arc::new(Patterns::new(Vec::<Secret<'_>>::new()).unwrap());
    assert_eq!(whole(&none, b"anything"), (b"anything".to_vec(), 0));
    assert_eq!(none.longest(), 0);
}

#[test]
fn debug_shows_no_value() {
    let patterns = patterns(&[PLAIN]);
    let mut redactor = Redactor::new(Arc::clone(&patterns), Width::Free);
    redactor.push(Bytes::from_static(PLAIN.as_bytes()));
    let shown = format!("{patterns:?} {redactor:?} {:?} {:?}", secret(PLAIN), patterns.shape());
    for form in forms(&[PLAIN]) {
        assert!(!shown.contains(std::str::from_utf8(&form).unwrap()), "{shown}");
    }
    let error = Patterns::new([("n", &PLAIN.as_bytes()[..7], STUB)]).unwrap_err();
    assert!(!format!("{error:?} {error}").contains(&PLAIN[..7]));
}

#[test]
fn an_ordinary_token_has_few_forms() {
    assert_eq!(
        variants(&Secret {
            user: None,
            ..secret(PLAIN)
        })
        .len(),
        16
    );
}

/// Text made of what is likely to go wrong: forms, parts of forms, escapes and ordinary bytes.
fn text(forms: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let part = (
        0..forms.len(),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
    )
        .prop_map({
            let forms = forms.clone();
            move |(form, from, to)| {
                let form = &forms[form];
                let (from, to) = (from.index(form.len() + 1), to.index(form.len() + 1));
                form[from.min(to)..from.max(to)].to_vec()
            }
        });
    let piece = prop_oneof![
        2 => prop::sample::select(forms),
        3 => part,
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => "[a-z0-9]{0,400}".prop_map(String::into_bytes),
        1 => prop::sample::select(vec![b"\n".to_vec(), b" ".to_vec(), b"%".to_vec(), b"\\".to_vec(), b"\"".to_vec()]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Values of which many overlap, some are within others, and some hold escapes themselves.
const TANGLED: [&str; 5] = [
    "abababab",
    "babababababa",
    "ababababab%2Fab",
    "\\u0061babababab",
    "%61%62%61%62",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_split_of_any_input_redacts_as_a_slow_search_does(
        text in text(forms(&TANGLED)), points in prop::collection::vec(any::<usize>(), 0..12), single in any::<bool>(),
    ) {
        let patterns = patterns(&TANGLED);
        let forms = forms(&TANGLED);
        let found = search_slowly(&forms, &text);
        let mut expected = Vec::new();
        let mut at = 0;
        for (start, end, last) in &found {
            expected.extend_from_slice(&text[at..*start]);
            expected.extend_from_slice(&patterns.redact(&text[*start..*end], Width::Free).unwrap().0);
            at = *last;
        }
        expected.extend_from_slice(&text[at..]);
        let chunks = if single { text.chunks(1).collect() } else { cut(&text, &points) };
        let (released, count) = redact_chunks(&patterns, chunks);
        prop_assert_eq!(count, found.len() as u64);
        prop_assert_eq!(released.concat(), expected);
    }

    #[test]
    fn release_points_are_the_same_for_secrets_of_equal_shape(
        (one, other, text) in twins(), points in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        prop_assert_eq!(Shape::of(one.as_bytes(), None), Shape::of(other.as_bytes(), None));
        let (first, second) = (patterns(&[&one]), patterns(&[&other]));
        prop_assume!(!first.occur_in(&text) && !second.occur_in(&text));
        let chunks = cut(&text, &points);
        let lengths = |patterns| redact_chunks(patterns, chunks.clone()).0.iter().map(Vec::len).collect::<Vec<_>>();
        let released = lengths(&first);
        prop_assert_eq!(&released, &lengths(&second));
        // And the rule itself: all up to the last delimiter, or all but L-1 bytes.
        let delimiters = first.shape().delimiters();
        let (mut seen, mut gone) = (0, 0);
        for (chunk, released) in chunks.iter().zip(&released) {
            seen += chunk.len();
            gone += released;
            let after = text[..seen].iter().rposition(|&byte| delimiters[usize::from(byte)]).map_or(0, |at| at + 1);
            prop_assert_eq!(gone, after.max(seen.saturating_sub(first.longest() - 1)));
        }
    }

    #[test]
    fn no_form_is_longer_than_the_shape_says_or_holds_a_delimiter(
        value in prop::collection::vec(any::<u8>(), 8..40), user in prop::option::of("[a-z]{0,200}"),
    ) {
        let secret = Secret { name: "fake", value: &value, stub: STUB, user: user.as_deref() };
        let shape = Shape::of(&value, user.as_deref());
        let delimiters = shape.delimiters();
        let forms = variants(&secret);
        prop_assert!(forms.len() <= VARIANTS_MAX);
        for form in forms {
            prop_assert!((value.len()..=shape.longest()).contains(&form.bytes.len()));
            let delimiter = form.bytes.iter().find(|&&byte| delimiters[usize::from(byte)]);
            // Latin-1 read as text is written in UTF-8: its bytes are of the same class.
            prop_assert_eq!(delimiter, None);
        }
    }
}

/// Two values of equal shape, and a text that holds parts of both.
fn twins() -> impl Strategy<Value = (String, String, Vec<u8>)> {
    let values = (
        8..60usize,
        prop::sample::select(vec!["", "\"", " ", "\n", "\u{7}", "! \n"]),
    )
        .prop_flat_map(|(length, class)| {
            let value = || {
                prop::collection::vec(prop::sample::select(b"abXY01-._~+/=%\\&#;".to_vec()), length)
                    .prop_map(move |bytes| format!("{}{class}", String::from_utf8_lossy(&bytes)))
            };
            (value(), value())
        });
    values.prop_flat_map(|(one, other)| {
        let forms = [forms(&[&one]), forms(&[&other])].concat();
        (
            Just(one),
            Just(other),
            text(forms.into_iter().map(|form| form[1..].to_vec()).collect()),
        )
    })
}
