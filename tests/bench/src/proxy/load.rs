//! Closed-loop load: each of `c` clients sends its next request when it has the answer to the last.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use super::link::{Link, Way, get};
use super::origin::{LARGE, PIECE, noise};

/// How long requests took.
pub(crate) struct Latency {
    /// Completed in a second.
    pub(crate) rate: f64,
    /// In µs.
    pub(crate) p50: f64,
    /// In µs.
    pub(crate) p99: f64,
    /// All, those included that weren't counted.
    pub(crate) requests: f64,
}

/// `/hello` over and over on kept connections.
pub(crate) async fn keep(way: &Way, clients: usize, time: Duration) -> Result<Latency> {
    let mut links = Vec::new();
    for _ in 0..clients {
        let mut link = way.open().await?;
        link.get("/hello").await?;
        links.push(link);
    }
    run(links, time).await
}

/// A connection, a tunnel, a handshake and one `/hello` each time.
pub(crate) async fn new(way: &Way, clients: usize, time: Duration) -> Result<Latency> {
    run(vec![way.clone(); clients], time).await
}

/// One of those that send requests.
trait Client: Send + 'static {
    fn step(&mut self) -> impl Future<Output = Result<()>> + Send;
}

impl Client for Link {
    async fn step(&mut self) -> Result<()> {
        ensure!(self.get("/hello").await? == 1024, "another answer came");
        Ok(())
    }
}

impl Client for Way {
    async fn step(&mut self) -> Result<()> {
        self.open().await?.step().await
    }
}

/// In tasks of their own, so that both cores may be used; the first tenth of the time isn't counted.
async fn run<C: Client>(clients: Vec<C>, time: Duration) -> Result<Latency> {
    let counted = Instant::now() + time / 10;
    let end = counted + time;
    let tasks = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let mut histogram = Histogram::<u64>::new(3)?;
            let mut requests = 0.0;
            loop {
                let began = Instant::now();
                if began > end {
                    return anyhow::Ok((histogram, requests));
                }
                client.step().await?;
                requests += 1.0;
                if began > counted {
                    histogram.record(u64::try_from(began.elapsed().as_nanos())?)?;
                }
            }
        })
    });
    let mut all = Histogram::<u64>::new(3)?;
    let mut requests = 0.0;
    for ended in try_join_all(tasks).await? {
        let (histogram, sent) = ended?;
        all.add(histogram)?;
        requests += sent;
    }
    Ok(latency(&all, time, requests))
}

#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds are far below 2^52")]
fn latency(histogram: &Histogram<u64>, time: Duration, requests: f64) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Latency {
        rate: histogram.len() as f64 / time.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
        requests,
    }
}

/// Sends [`LARGE`] bytes; MB a second.
pub(crate) async fn upload(way: &Way, chunked: bool) -> Result<f64> {
    let piece = noise();
    let pieces = stream::iter(0..LARGE / PIECE as u64).map(move |_| Ok(Frame::data(piece.clone())));
    let mut request = Request::new(StreamBody::new(pieces).boxed_unsync());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/upload");
    if !chunked {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(LARGE));
    }
    let mut link = way.open().await?;
    let began = Instant::now();
    let mut body = link.send(request).await?.into_body();
    let mut count = Vec::new();
    while let Some(piece) = link.piece(&mut body).await? {
        count.extend_from_slice(&piece);
    }
    ensure!(count == LARGE.to_string().as_bytes(), "not everything arrived");
    Ok(megabytes(began))
}

/// Gets [`LARGE`] bytes; MB a second.
pub(crate) async fn download(way: &Way, path: &'static str) -> Result<f64> {
    let mut link = way.open().await?;
    let began = Instant::now();
    ensure!(link.get(path).await? == LARGE, "not everything arrived");
    Ok(megabytes(began))
}

#[expect(clippy::cast_precision_loss, reason = "200 MiB are far below 2^52")]
fn megabytes(began: Instant) -> f64 {
    LARGE as f64 / 1e6 / began.elapsed().as_secs_f64()
}

/// Sends [`LARGE`] bytes as often as said, all at once.
pub(crate) async fn uploads(way: &Way, count: usize) -> Result<()> {
    try_join_all((0..count).map(|_| upload(way, false))).await?;
    Ok(())
}

/// Opens this many tunnels; each has answered one request and waits for the next.
pub(crate) async fn open_tunnels(way: &Way, count: u32) -> Result<Vec<Link>> {
    let opened = stream::iter(0..count).map(|_| async {
        let mut link = way.open().await?;
        link.get("/hello").await?;
        anyhow::Ok(link)
    });
    opened.buffer_unordered(AT_ONCE).try_collect().await
}

/// Opens this many event streams, each on a connection of its own, each past its first event.
pub(crate) async fn open_streams(way: &Way, count: u32) -> Result<Vec<(Link, hyper::body::Incoming)>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut link = way.open().await?;
        let mut body = link.send(get("/sse")).await?.into_body();
        let first: Option<Bytes> = link.piece(&mut body).await?;
        ensure!(first.is_some_and(|first| !first.is_empty()), "a stream ended");
        streams.push((link, body));
    }
    Ok(streams)
}

/// Tunnels that are being opened: no listener's queue is longer.
const AT_ONCE: usize = 16;
