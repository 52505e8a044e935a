//! Whole responses, frame by frame.

use futures::stream;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Response};
use http_body_util::{BodyExt, Empty, Full, StreamBody};

use super::super::coding::Limits;
use super::super::coding::tests::encode;
use super::super::response;
use super::*;

const SECRET: &str = "fake-token-0123456789";
const STUB: &str = "stub-1";

type Step = Result<Frame<Bytes>, &'static str>;

fn patterns() -> Arc<Patterns> {
    Arc::new(Patterns::new([("fake", SECRET.as_bytes(), STUB)]).unwrap())
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside errors in a list of steps")]
fn data(bytes: impl Into<Bytes>) -> Step {
    Ok(Frame::data(bytes.into()))
}

fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
        .collect()
}

/// What the agent receives: data, trailers, and the error that ended it.
async fn receive(head: &[(HeaderName, &'static str)], steps: Vec<Step>) -> (Vec<u8>, Option<HeaderMap>, Option<Error>) {
    let mut upstream = Response::new(StreamBody::new(stream::iter(steps)));
    *upstream.headers_mut() = headers(head);
    let (response, _) = response(upstream, &patterns(), Limits::default(), Policy::default()).unwrap();
    let mut body = response.into_body();
    let (mut received, mut trailers, mut error) = (Vec::new(), None, None);
    while let Some(step) = body.frame().await {
        match step.map(Frame::into_data) {
            Ok(Ok(bytes)) => received.extend_from_slice(&bytes),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(cause) => error = Some(cause),
        }
    }
    assert!(body.is_end_stream());
    (received, trailers, error)
}

#[tokio::test]
async fn data_and_trailers_are_redacted() {
    let trailers = headers(&[(HeaderName::from_static("grpc-message"), "denied: fake-token-0123456789")]);
    let steps = vec![
        data("a fake-tok"),
        data("en-0123456789 b"),
        Ok(Frame::trailers(trailers)),
    ];
    let (received, trailers, error) = receive(&[], steps).await;
    assert_eq!(received, b"a stub-1 b");
    assert_eq!(trailers.unwrap()["grpc-message"], "denied: stub-1");
    assert!(error.is_none());
}

#[tokio::test]
async fn a_body_that_is_all_there_comes_in_one_redacted_piece() {
    let upstream = Response::new(Full::new(Bytes::from(format!("a {SECRET} b {SECRET}"))));
    let (response, _) = response(upstream, &patterns(), Limits::default(), Policy::default()).unwrap();
    let mut body = response.into_body();
    let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(piece, "a stub-1 b stub-1");
    assert!(body.is_end_stream());
    assert_eq!(body.count(), 2);
}

#[tokio::test]
async fn what_is_held_is_dropped_when_a_read_fails() {
    for steps in [
        vec![data("seen\nfake-token-0123456789"), Err("reset"), data("more\n")],
        vec![data("seen\n"), data("fake-token"), Err("reset"), data("-0123456789\n")],
    ] {
        let (received, trailers, error) = receive(&[], steps).await;
        assert_eq!(received, b"seen\n");
        assert!(trailers.is_none());
        assert!(matches!(error, Some(Error::Read(cause)) if cause.to_string() == "reset"));
    }
}

#[tokio::test]
async fn every_coding_is_decoded_and_redacted() {
    for (label, coding) in [
        ("gzip", Coding::Gzip),
        ("deflate", Coding::Deflate),
        ("br", Coding::Brotli),
        ("zstd", Coding::Zstd),
    ] {
        let body = encode(coding, format!("{} {SECRET} end", "line\n".repeat(20_000)).as_bytes());
        let steps = body.chunks(3).map(|chunk| data(chunk.to_vec())).collect();
        let (received, _, error) = receive(&[(CONTENT_ENCODING, label)], steps).await;
        assert!(error.is_none(), "{label}");
        assert!(received.ends_with(b"line\n stub-1 end"), "{label}");
    }
}

#[tokio::test]
async fn a_truncated_body_never_gives_its_held_end() {
    let body = encode(Coding::Gzip, format!("seen\nhidden{SECRET}hidden").as_bytes());
    let (received, _, error) = receive(
        &[(CONTENT_ENCODING, "gzip")],
        vec![data(body[..body.len() - 1].to_vec())],
    )
    .await;
    assert_eq!(received, b"seen\n");
    assert!(matches!(
        error,
        Some(Error::Decode(coding::Error::Truncated(Coding::Gzip)))
    ));
}

#[tokio::test]
async fn a_plain_body_under_a_coding_is_never_given() {
    let (received, _, error) = receive(&[(CONTENT_ENCODING, "br")], vec![data(format!("\u{7}{SECRET}\n"))]).await;
    assert_eq!(received, b"");
    assert!(matches!(error, Some(Error::Decode(_))));
}

#[tokio::test]
async fn a_compressed_message_is_never_given() {
    let grpc = [(CONTENT_TYPE, "application/grpc+proto")];
    let (received, _, error) = receive(&grpc, vec![data(&b"\x01\0\0\0\x02ab"[..])]).await;
    assert_eq!(received, b"");
    assert!(matches!(error, Some(Error::Messages(grpc::Error::Compressed))));
}

#[tokio::test]
async fn messages_keep_their_lengths() {
    let message = [&[0, 0, 0, 0, 23, 0x0a, 21][..], SECRET.as_bytes()].concat();
    let grpc = [(CONTENT_TYPE, "application/grpc")];
    let (received, _, error) = receive(&grpc, message.chunks(1).map(|byte| data(byte.to_vec())).collect()).await;
    assert!(error.is_none());
    assert_eq!(received, [&message[..7], b"REDACTEDREDACTEDREDAC"].concat());
}

#[tokio::test]
async fn reading_stops_while_there_is_something_to_give() {
    let mut read = 0;
    let steps = stream::iter((0..10).map(|_| {
        read += 1;
        data("line\n")
    }));
    let mut body = Redacted::new(
        StreamBody::new(steps),
        Plan::of(&HeaderMap::new(), Limits::default(), Policy::default()).unwrap(),
        patterns(),
    );
    body.frame().await.unwrap().unwrap();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(read, 2);
}

#[test]
fn lengths_are_told_only_if_nothing_can_change() {
    let none = Arc::new(Patterns::new(Vec::<super::super::Secret<'_>>::new()).unwrap());
    let wrap = |body, patterns: &Arc<Patterns>| {
        let (response, _) = response(Response::new(body), patterns, Limits::default(), Policy::default()).unwrap();
        response.into_body()
    };
    assert_eq!(wrap(Full::from("12345"), &none).size_hint().exact(), Some(5));
    assert_eq!(wrap(Full::from("12345"), &patterns()).size_hint().exact(), None);
    let nothing = wrap(Full::default(), &patterns());
    assert!(nothing.is_end_stream() && nothing.size_hint().exact() == Some(0));
}

#[tokio::test]
async fn an_answer_to_head_needs_no_body() {
    let mut upstream = Response::new(Empty::<Bytes>::new());
    *upstream.headers_mut() = headers(&[(CONTENT_ENCODING, "gzip")]);
    let (response, _) = response(upstream, &patterns(), Limits::default(), Policy::default()).unwrap();
    assert!(response.headers().is_empty());
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[test]
fn debug_shows_no_value() {
    let (response, _) = response(
        Response::new(Full::<Bytes>::from(SECRET)),
        &patterns(),
        Limits::default(),
        Policy::default(),
    )
    .unwrap();
    assert!(!format!("{response:?}").contains("fake"));
}
