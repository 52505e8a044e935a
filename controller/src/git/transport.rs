//! libgit2's smart HTTP over our own rustls client: no OpenSSL, redirects only within the same host, a bound on bytes.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use parking_lot::Mutex;
use reqwest::blocking::{Client, Response};
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Certificate, StatusCode};

use super::reach::{self, Vetted};
use super::wire::{Login, Request};

/// Registers the transport for this process, which serves one request.
pub fn register(request: &Request) -> Result<(), String> {
    let http = Http {
        client: client(request)?,
        login: request.login.clone(),
        received: Arc::default(),
        base: Arc::default(),
    };
    for scheme in ["http", "https"] {
        let http = http.clone();
        let factory = move |remote: &git2::Remote<'_>| Transport::smart(remote, true, http.clone());
        #[expect(
            unsafe_code,
            reason = "libgit2 asks that no other transport is made meanwhile: this process has one thread"
        )]
        let registered = unsafe { git2::transport::register(scheme, factory) };
        registered.map_err(|error| format!("the transport can't be registered: {}", error.message()))?;
    }
    Ok(())
}

fn client(request: &Request) -> Result<Client, String> {
    if let Some(address) = reach::literal(&request.url) {
        reach::vet(address, &request.networks).map_err(|error| error.to_string())?;
    }
    let mut builder = Client::builder()
        .user_agent("git/2 berth")
        .dns_resolver(Arc::new(Vetted(request.networks.clone())))
        .redirect(Policy::custom(|attempt| {
            let first = attempt.previous().first().cloned();
            let origin = |url: &url::Url| {
                (
                    url.scheme().to_owned(),
                    url.host_str().map(str::to_owned),
                    url.port_or_known_default(),
                )
            };
            if attempt.previous().len() > REDIRECTS_MAX {
                attempt.error("too many redirects")
            } else if first.is_some_and(|first| origin(&first) == origin(attempt.url())) {
                attempt.follow()
            } else {
                attempt.error("the server redirects to another host; name that host in spec.url")
            }
        }))
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT);
    for certificate in request
        .ca
        .as_deref()
        .map(|pem| Certificate::from_pem_bundle(pem.as_bytes()))
        .transpose()
        .map_err(|error| format!("ca.crt of the Secret can't be read: {error}"))?
        .into_iter()
        .flatten()
    {
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|error| format!("no HTTP client: {error}"))
}

#[derive(Clone)]
struct Http {
    client: Client,
    login: Login,
    received: Arc<AtomicU64>,
    /// Where the server led the first request to, within its own host.
    base: Arc<Mutex<Option<String>>>,
}

impl Http {
    fn send(&self, request: reqwest::blocking::RequestBuilder, wanted: &str) -> io::Result<Body> {
        let request = match &self.login {
            Login::None => request,
            Login::Basic { username, password } => request.basic_auth(username, Some(password)),
            Login::Bearer(token) => request.bearer_auth(token),
        };
        let response = request.send().map_err(|error| io::Error::other(words(&error)))?;
        match response.status() {
            StatusCode::OK if !is_of(&response, wanted) => Err(io::Error::other(
                "the server doesn't speak git's smart HTTP there: see spec.url",
            )),
            StatusCode::OK => Ok(Body {
                response,
                received: Arc::clone(&self.received),
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(io::Error::other(format!(
                "the server answers {}: see spec.secretRef",
                response.status()
            ))),
            StatusCode::NOT_FOUND => Err(io::Error::other(
                "the server knows no such repository, or hides it: see spec.url \
                and spec.secretRef",
            )),
            status => Err(io::Error::other(format!("the server answers {status}"))),
        }
    }
}

fn is_of(response: &Response, wanted: &str) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|found| found == wanted)
}

/// The innermost cause says most; the request's URL is known.
fn words(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

impl SmartSubtransport for Http {
    fn action(&self, url: &str, action: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        let url = url.trim_end_matches('/');
        match action {
            Service::UploadPackLs => {
                let request = self.client.get(format!("{url}{ADVERTISEMENT}"));
                let body = self
                    .send(request, "application/x-git-upload-pack-advertisement")
                    .map_err(|error| git2::Error::from_str(&error.to_string()))?;
                let base = body
                    .response
                    .url()
                    .as_str()
                    .strip_suffix(ADVERTISEMENT)
                    .map(str::to_owned);
                *self.base.lock() = base;
                Ok(Box::new(Exchange {
                    http: self.clone(),
                    url: String::new(),
                    sent: Vec::new(),
                    body: Some(body),
                }))
            }
            Service::UploadPack => {
                let base = self.base.lock().clone();
                let url = format!("{}/git-upload-pack", base.as_deref().unwrap_or(url));
                Ok(Box::new(Exchange {
                    http: self.clone(),
                    url,
                    sent: Vec::new(),
                    body: None,
                }))
            }
            Service::ReceivePackLs | Service::ReceivePack => Err(git2::Error::from_str("Berth never pushes")),
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

/// One request, written whole, then its answer.
struct Exchange {
    http: Http,
    url: String,
    sent: Vec<u8>,
    body: Option<Body>,
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.sent.len() + bytes.len() > NEGOTIATION_MAX {
            return Err(io::Error::other("the negotiation is larger than it may be"));
        }
        self.sent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let body = match &mut self.body {
            Some(body) => body,
            empty @ None => {
                let request = self.http.client.post(&self.url).body(std::mem::take(&mut self.sent));
                let request = request.header("content-type", "application/x-git-upload-pack-request");
                let wanted = "application/x-git-upload-pack-result";
                empty.insert(self.http.send(request.header("accept", wanted), wanted)?)
            }
        };
        body.read(buffer)
    }
}

struct Body {
    response: Response,
    received: Arc<AtomicU64>,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.response.read(buffer)?;
        let bytes = u64::try_from(read).unwrap_or(u64::MAX);
        if self.received.fetch_add(bytes, Ordering::Relaxed) + bytes > RECEIVED_MAX {
            return Err(io::Error::other(format!(
                "the repository is larger than {} MiB",
                RECEIVED_MAX >> 20
            )));
        }
        Ok(read)
    }
}

const ADVERTISEMENT: &str = "/info/refs?service=git-upload-pack";
const REDIRECTS_MAX: usize = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The child as a whole has two minutes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(100);
/// A negotiation names commits, 50 bytes each.
const NEGOTIATION_MAX: usize = 4 << 20;
/// What one fetch may bring: a repository of manifests is a hundredth of it.
const RECEIVED_MAX: u64 = 256 << 20;
