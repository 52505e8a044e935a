//! Bodies that are long, slow, or end in their own way.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use berth_gallery::agent::{self, Body};
use berth_gallery::origin::{Authority, Origin, Seen, always, echo, ok};
use berth_gallery::policy::{self, HOST, SECRET, STUB};
use berth_gallery::process::Process;
use berth_gallery::scene::Scene;
use bytes::Bytes;
use http::header::{AUTHORIZATION, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>;

/// A body that goes on as long as the test sends frames.
fn flowing() -> (Frames, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let body = StreamBody::new(UnboundedReceiverStream::new(receiver));
    (sender, body.map_err(|never| match never {}).boxed_unsync())
}

async fn until<S: tokio::io::AsyncRead + Unpin>(stream: &mut S, end: &str) -> Result<String> {
    let mut read = Vec::new();
    agent::within(async {
        while !read.windows(end.len()).any(|window| window == end.as_bytes()) {
            anyhow::ensure!(
                stream.read_buf(&mut read).await? > 0,
                "it ended: {}",
                String::from_utf8_lossy(&read)
            );
        }
        Ok(())
    })
    .await?;
    Ok(String::from_utf8_lossy(&read).into_owned())
}

/// Each event arrives before the next one is made.
#[tokio::test]
async fn events_are_passed_as_they_come() -> Result<()> {
    let authority = Authority::new()?;
    let (events, feed) = mpsc::unbounded_channel::<String>();
    let feed = Arc::new(tokio::sync::Mutex::new(feed));
    let config = authority.server(&[HOST], &["http/1.1"])?;
    let origin = Origin::raw(config, move |mut stream, _log| {
        let feed = Arc::clone(&feed);
        async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await; // a request of this test comes in one piece
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            while let Some(event) = feed.lock().await.recv().await {
                let _ = stream
                    .write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
                    .await;
            }
        }
    });
    let scene = Scene::around(authority, origin.await?, &json!({})).await?;
    let mut stream = scene.tunnel().await?;
    stream
        .write_all(scene.head("GET /events", "Accept: text/event-stream\r\n").as_bytes())
        .await?;
    agent::within(agent::read_head(&mut stream)).await?;
    for number in 0..20 {
        events.send(format!("data: {number} {SECRET}\n\n"))?;
        until(&mut stream, &format!("data: {number} {STUB}\n\n")).await?;
    }
    Ok(())
}

/// Half of a conversation may end before the other: the agent has said everything, and the answer still comes.
#[tokio::test]
async fn an_agent_that_has_said_everything_still_gets_its_answer() -> Result<()> {
    let scene = Scene::echo().await?;
    let text = scene.raw(&scene.head("GET /", "")).await?;
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n0\r\n\r\n"),
        "{text}"
    );
    Ok(())
}

/// THREAT: 66
#[tokio::test]
async fn a_body_is_asked_for_when_the_upstream_asks() -> Result<()> {
    let authority = Authority::new()?;
    let config = authority.server(&[HOST], &["http/1.1"])?;
    let origin = Origin::raw(config, |mut stream, log| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        log.lock().extend_from_slice(&head);
        if head.starts_with(b"POST /no") {
            let _ = stream
                .write_all(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
                .await;
        } else {
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            let mut body = [0; 4];
            let _ = stream.read_exact(&mut body).await;
            log.lock().extend_from_slice(&body);
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                .await;
        }
        // What comes beyond belongs to nobody.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        log.lock().extend_from_slice(&rest);
    });
    let scene = Scene::around(authority, origin.await?, &json!({})).await?;
    let expecting = |path: &str| scene.head(&format!("POST {path}"), "Expect: 100-continue\r\nContent-Length: 4\r\n");
    let mut stream = scene.tunnel().await?;
    stream.write_all(expecting("/yes").as_bytes()).await?;
    assert_eq!(agent::within(agent::read_head(&mut stream)).await?.status, 100);
    stream.write_all(b"body").await?;
    assert_eq!(agent::read(&mut stream).await?.text(), "ok");
    assert!(scene.origin.text().ends_with("body"), "{}", scene.origin.text());
    // An answer without asking is the answer, and nothing of a body is ever sent.
    let mut stream = scene.tunnel().await?;
    stream.write_all(expecting("/no").as_bytes()).await?;
    let answer = agent::read(&mut stream).await?;
    assert_eq!(answer.status, 401, "{}", answer.head);
    assert!(answer.head.contains("www-authenticate: Basic"));
    Ok(())
}

/// THREAT: 66
#[tokio::test]
async fn an_early_answer_ends_an_upload() -> Result<()> {
    let authority = Authority::new()?;
    let config = authority.server(&[HOST], &["http/1.1"])?;
    let origin = Origin::raw(config, |mut stream, _log| async move {
        let mut some = [0; 4096];
        let _ = stream.read(&mut some).await;
        let _ = stream
            .write_all(b"HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!")
            .await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let scene = Scene::around(authority, origin.await?, &json!({})).await?;
    let mut stream = scene.tunnel().await?;
    stream
        .write_all(scene.head("POST /", "Content-Length: 100000000\r\n").as_bytes())
        .await?;
    stream.write_all(&[b'x'; 10_000]).await?;
    let answer = agent::read(&mut stream).await?;
    assert_eq!((answer.status, answer.text().as_str()), (413, "no!"), "{}", answer.head);
    Ok(())
}

/// Trailers of both directions, over HTTP/1.1.
#[tokio::test]
async fn trailers_are_passed_both_ways() -> Result<()> {
    let answer =
        "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n";
    let scene = Scene::new(always(answer), &json!({})).await?;
    let more = "TE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n";
    let request = format!("{}4\r\nbody\r\n0\r\nx-sum: 17\r\n\r\n", scene.head("POST /", more));
    let text = scene.raw(&request).await?;
    assert!(text.contains("x-sum: 42"), "{text}");
    let seen = scene.origin.requests();
    assert!(
        String::from_utf8_lossy(&seen[0].body).contains("x-sum: 17"),
        "{}",
        scene.origin.text()
    );
    Ok(())
}

/// A stub has no worth in a trailer either.
/// THREAT: 27
#[tokio::test]
async fn a_trailer_is_no_surface() -> Result<()> {
    let scene = Scene::echo().await?;
    let more = "Trailer: authorization\r\nTransfer-Encoding: chunked\r\n";
    let request = format!(
        "{}0\r\nauthorization: Bearer {STUB}\r\n\r\n",
        scene.bare("POST /", more)
    );
    scene.raw(&request).await?;
    assert!(!scene.origin.text().contains(SECRET), "{}", scene.origin.text());
    Ok(())
}

/// As gRPC does: messages in both directions at once, and the status in the trailers.
#[tokio::test]
async fn messages_flow_both_ways_over_http_2() -> Result<()> {
    converse_in_messages(["one\n", "two\n", "three\n"]).await
}

/// The same, with messages that end in a letter.
#[tokio::test]
async fn a_message_is_passed_without_waiting_for_the_next() -> Result<()> {
    converse_in_messages(["one", "two", "three"]).await
}

/// An origin that echoes messages, and at the end the credential in a trailer.
async fn echoing(authority: &Authority) -> Result<Origin> {
    Origin::served(
        authority,
        &[HOST],
        &["h2", "http/1.1"],
        |request: Request<Incoming>| async move {
            let (frames, body) = flowing();
            let authorization = request
                .headers()
                .get(AUTHORIZATION)
                .cloned()
                .context("no authorization")?;
            tokio::spawn(async move {
                let mut asked = request.into_body();
                while let Some(Ok(frame)) = asked.frame().await {
                    if let Ok(data) = frame.into_data() {
                        let _ = frames.send(Ok(Frame::data(data)));
                    }
                }
                let status = HeaderMap::from_iter([
                    (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0")),
                    (HeaderName::from_static("x-echo"), authorization),
                ]);
                let _ = frames.send(Ok(Frame::trailers(status)));
            });
            Ok(Response::builder()
                .header("content-type", "application/grpc")
                .body(body)?)
        },
    )
    .await
}

async fn converse_in_messages(texts: [&str; 3]) -> Result<()> {
    let authority = Authority::new()?;
    let origin = echoing(&authority).await?;
    let scene = Scene::around(authority, origin, &json!({})).await?;
    let mut sender = agent::http2(&scene.sidecar, &scene.place).await?;
    let (frames, body) = flowing();
    let request = Request::post(format!("https://{}/package.Service/Method", scene.place))
        .header(AUTHORIZATION, format!("Bearer {STUB}"))
        .header(TE, "trailers")
        .header("content-type", "application/grpc")
        .body(body)?;
    let answer = agent::within(async { Ok(sender.send_request(request).await?) }).await?;
    assert_eq!(answer.status(), 200);
    let mut answer = answer.into_body();
    for text in texts {
        // A gRPC message: uncompressed, its length in four bytes.
        let message = [&[0, 0, 0, 0, u8::try_from(text.len())?], text.as_bytes()].concat();
        frames.send(Ok(Frame::data(Bytes::from(message.clone()))))?;
        let mut read = Vec::new();
        while read.len() < message.len() {
            let frame = agent::within(async { answer.frame().await.context("it ended") }).await??;
            read.extend(frame.into_data().unwrap_or_default());
        }
        assert_eq!(read, message);
    }
    drop(frames);
    let last = agent::within(async { answer.frame().await.context("it ended") }).await??;
    let trailers = last.into_trailers().map_err(|frame| anyhow::anyhow!("{frame:?}"))?;
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-echo"], format!("Bearer {STUB}"));
    let seen = scene.origin.requests();
    assert!(
        seen[0].head.contains("te: trailers") && seen[0].head.contains("HTTP/2"),
        "{}",
        seen[0].head
    );
    Ok(())
}

const LARGE: usize = 50 << 20;
/// KiB: three windows, buffers and the process itself. It is 50 MiB that pass.
const MEMORY_MAX: u64 = 40 << 10;

/// An origin that counts what is uploaded, and sends [`LARGE`] zeros to whoever gets something.
async fn large(authority: &Authority) -> Result<Origin> {
    let config = authority.server(&[HOST], &["http/1.1"])?;
    Origin::raw(config, |stream, _log| async move {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = tokio::io::BufReader::new(reader);
        let Ok(head) = agent::read_request(&mut reader).await else {
            return;
        };
        let count = agent::discard(&mut reader, &head).await.unwrap_or_default();
        let chunked = head.starts_with("GET /chunked");
        let bytes = if head.starts_with("GET") { LARGE } else { 0 };
        let framing = if chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {bytes}")
        };
        let head = format!("HTTP/1.1 200 OK\r\nX-Count: {count}\r\nConnection: close\r\n{framing}\r\n\r\n");
        let _ = writer.write_all(head.as_bytes()).await;
        let piece = vec![b'0'; 64 << 10];
        for _ in 0..bytes / piece.len() {
            if chunked {
                let _ = writer.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await;
            }
            if writer.write_all(&piece).await.is_err() {
                return;
            }
            if chunked {
                let _ = writer.write_all(b"\r\n").await;
            }
        }
        let _ = writer.write_all(if chunked { b"0\r\n\r\n" } else { b"" }).await;
        let _ = writer.shutdown().await;
    })
    .await
}

/// THREAT: 65
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_without_being_held() -> Result<()> {
    let authority = Authority::new()?;
    let origin = large(&authority).await?;
    let port = origin.address.port();
    let policy = policy::bearer(port, &json!({}));
    let program = env!("CARGO_BIN_EXE_gallery-sidecar");
    let process = Process::start(program, &authority, &policy.to_string(), None, &[]).await?;
    let place = format!("{HOST}:{port}");
    let head = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {STUB}\r\n{more}\r\n")
    };
    let piece = vec![b'0'; 64 << 10];
    for (line, more) in [
        ("POST /", format!("Content-Length: {LARGE}\r\n")),
        ("POST /chunked", "Transfer-Encoding: chunked\r\n".to_owned()),
        ("GET /", String::new()),
        ("GET /chunked", String::new()),
    ] {
        let mut stream = agent::tunnel_through(process.proxy, &process.ca(), &place, HOST, &["http/1.1"]).await?;
        stream.write_all(head(line, &more).as_bytes()).await?;
        if line.starts_with("POST") {
            let chunked = more.starts_with("Transfer");
            for _ in 0..LARGE / piece.len() {
                if chunked {
                    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                }
                stream.write_all(&piece).await?;
                if chunked {
                    stream.write_all(b"\r\n").await?;
                }
            }
            if chunked {
                stream.write_all(b"0\r\n\r\n").await?;
            }
        }
        let answer = agent::read(&mut stream).await?;
        let expected = if line.starts_with("POST") {
            (LARGE, 0)
        } else {
            (0, LARGE)
        };
        let count: usize = berth_gallery::origin::header(&answer.head, "x-count")
            .context("no count")?
            .parse()?;
        assert_eq!((count, answer.body.len()), expected, "{line}");
        let peak = process.peak()?;
        assert!(peak < MEMORY_MAX, "{line}: {peak} KiB");
    }
    Ok(())
}

/// THREAT: 65
/// An answer without end is passed as long as the agent reads, and ends when the agent does.
#[tokio::test]
async fn an_endless_answer_ends_with_its_reader() -> Result<()> {
    let authority = Authority::new()?;
    let (ended, mut over) = mpsc::unbounded_channel();
    let config = authority.server(&[HOST], &["http/1.1"])?;
    let origin = Origin::raw(config, move |mut stream, _log| {
        let ended = ended.clone();
        async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            while stream.write_all(b"4\r\nmore\r\n").await.is_ok() {}
            let _ = ended.send(());
        }
    });
    let scene = Scene::around(authority, origin.await?, &json!({})).await?;
    let mut stream = scene.tunnel().await?;
    stream.write_all(scene.head("GET /", "").as_bytes()).await?;
    let mut some = vec![0; 1 << 20];
    agent::within(async { Ok(stream.read_exact(&mut some).await?) }).await?;
    drop(stream);
    agent::within(async { over.recv().await.context("the origin ended") }).await?;
    Ok(())
}

/// `HEAD`, 204 and 304 have no body, whatever they say about one.
#[tokio::test]
async fn answers_without_a_body_end_at_their_head() -> Result<()> {
    let table = [
        ("HEAD /", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 200),
        ("GET /", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET /", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", 304),
    ];
    for (line, bytes, status) in table {
        let scene = Scene::new(always(bytes), &json!({})).await?;
        let mut stream = scene.tunnel().await?;
        for _ in 0..2 {
            stream.write_all(scene.head(line, "").as_bytes()).await?;
            assert_eq!(
                agent::within(agent::read_head(&mut stream)).await?.status,
                status,
                "{line}"
            );
        }
        assert_eq!(scene.origin.requests().len(), 2);
    }
    Ok(())
}

/// The same tunnel and the same upstream connection carry many requests.
#[tokio::test]
async fn requests_follow_each_other_on_one_connection() -> Result<()> {
    let scene = Scene::new(Arc::new(|seen: &Seen| ok(seen.target())), &json!({})).await?;
    let mut stream = scene.tunnel().await?;
    for number in 0..50 {
        let answer = agent::exchange(&mut stream, scene.head(&format!("GET /{number}"), "").as_bytes()).await?;
        assert_eq!(answer.text(), format!("/{number}"));
    }
    assert_eq!(scene.origin.connections(), 1);
    Ok(())
}

/// A connection that the upstream closed meanwhile costs a `GET` nothing.
#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_not_noticed() -> Result<()> {
    let scene = Scene::new(echo(), &json!({})).await?;
    let mut stream = scene.tunnel().await?;
    for _ in 0..3 {
        assert_eq!(
            agent::exchange(&mut stream, scene.head("GET /", "").as_bytes())
                .await?
                .status,
            200
        );
        scene.origin.hang_up();
    }
    Ok(())
}
