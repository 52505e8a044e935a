//! A server that an agent wants to reach: it keeps every decrypted byte of every connection, and answers what the test
//! says.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::agent::Body;

/// The authority that the sidecar is told to trust for upstreams.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// What an HTTP/1.1 origin answers to a request: raw bytes. `None` closes the connection.
pub type Answer = Arc<dyn Fn(&Seen) -> Option<Vec<u8>> + Send + Sync>;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Up to the empty line, which is included.
    pub head: String,
    /// As many bytes as `Content-Length` says, or the raw chunks.
    pub body: Vec<u8>,
    /// The client's certificate, DER.
    pub certificate: Option<Vec<u8>>,
}

/// A running origin.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<u8>>>,
    requests: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
    running: Arc<Mutex<JoinSet<()>>>,
    _tasks: JoinSet<()>,
}

impl Authority {
    /// A fresh one.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        // A name of its own: OpenSSL takes a certificate whose issuer has its subject's for self-signed.
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "gallery");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = parameters.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(parameters, key),
            pem,
        })
    }

    /// One that stands already: its common name, its certificate and its key.
    pub fn of(name: &str, pem: String, key: &str) -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self {
            issuer: Issuer::new(parameters, KeyPair::from_pem(key)?),
            pem,
        })
    }

    /// A certificate for these names and its key, valid for a year around 2026 or at another time.
    pub fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Result<(Certificate, KeyPair)> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names)?;
        change(&mut parameters);
        Ok((parameters.signed_by(&key, &self.issuer)?, key))
    }

    /// TLS for servers of these names.
    pub fn server(&self, names: &[&str], protocols: &[&str]) -> Result<ServerConfig> {
        let builder = ServerConfig::builder().with_no_client_auth();
        self.configured(builder, names, protocols)
    }

    /// The same, for clients that show a certificate of that authority and no others.
    pub fn server_of(&self, clients: &Self, names: &[&str], protocols: &[&str]) -> Result<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes())?)?;
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
        let builder = ServerConfig::builder().with_client_cert_verifier(verifier);
        self.configured(builder, names, protocols)
    }

    fn configured(
        &self,
        builder: ConfigBuilder<ServerConfig, WantsServerCert>,
        names: &[&str],
        protocols: &[&str],
    ) -> Result<ServerConfig> {
        let (certificate, key) = self.issue(names, |_as_it_is| {})?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

impl Seen {
    /// A parsed request, written as HTTP/1.1 would write it.
    fn of(request: &Request<Incoming>) -> Self {
        let mut head = format!("{} {} {:?}\r\n", request.method(), request.uri(), request.version());
        for (name, value) in request.headers() {
            let _ = write!(head, "{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
        }
        Self {
            head: format!("{head}\r\n"),
            body: Vec::new(),
            certificate: None,
        }
    }

    /// The path and query that it asks for.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }
}

impl Origin {
    /// HTTP/1.1 over TLS.
    pub async fn http1(authority: &Authority, names: &[&str], answer: Answer) -> Result<Self> {
        Self::http1_over(authority.server(names, &["http/1.1"])?, answer).await
    }

    /// The same over this TLS; a client's certificate is kept with each request.
    pub async fn http1_over(config: ServerConfig, answer: Answer) -> Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let requests = Arc::default();
        let kept = Arc::clone(&requests);
        let origin = Self::start(move |stream, log| {
            let (acceptor, answer, kept) = (acceptor.clone(), Arc::clone(&answer), Arc::clone(&kept));
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    let shown = shown.map(|certificate| certificate.to_vec());
                    let _ = converse(stream, (&answer, shown), &log, &kept).await; // the other side may break off at any time
                }
            }
        });
        Ok(Self {
            requests,
            ..origin.await?
        })
    }

    /// HTTP/1.1 without TLS.
    pub async fn plain(answer: Answer) -> Result<Self> {
        let requests = Arc::default();
        let kept = Arc::clone(&requests);
        let origin = Self::start(move |stream, log| {
            let (answer, kept) = (Arc::clone(&answer), Arc::clone(&kept));
            async move {
                let _ = converse(stream, (&answer, None), &log, &kept).await; // the other side may break off at any time
            }
        });
        Ok(Self {
            requests,
            ..origin.await?
        })
    }

    /// A server made of hyper, HTTP/2 if the sidecar chooses it from `protocols`.
    pub async fn served<F, R>(authority: &Authority, names: &[&str], protocols: &[&str], answer: F) -> Result<Self>
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Response<Body>>> + Send + 'static,
    {
        Self::served_over(authority.server(names, protocols)?, answer).await
    }

    /// The same over this TLS.
    pub async fn served_over<F, R>(config: ServerConfig, answer: F) -> Result<Self>
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Response<Body>>> + Send + 'static,
    {
        let requests: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let kept = Arc::clone(&requests);
        let service = move |request: Request<Incoming>| {
            kept.lock().push(Seen::of(&request));
            answer(request)
        };
        let origin = Self::raw(config, move |stream, _log| {
            let service = service_fn(service.clone());
            async move {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let stream = TokioIo::new(stream);
                // The other side may break off at any time.
                if is_http2 {
                    let _ = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(stream, service)
                        .await;
                } else {
                    let _ = http1::Builder::new()
                        .serve_connection(stream, service)
                        .with_upgrades()
                        .await;
                }
            }
        });
        Ok(Self {
            requests,
            ..origin.await?
        })
    }

    /// Whatever the test does with each connection once its TLS stands.
    pub async fn raw<F, R>(config: ServerConfig, serve: F) -> Result<Self>
    where
        F: Fn(TlsStream<TcpStream>, Arc<Mutex<Vec<u8>>>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start(move |stream, log| {
            let (acceptor, serve) = (acceptor.clone(), serve.clone());
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, log).await;
                }
            }
        })
        .await
    }

    /// Whatever the test does with each TCP connection.
    pub async fn start<F, R>(serve: F) -> Result<Self>
    where
        F: Fn(TcpStream, Arc<Mutex<Vec<u8>>>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (log, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (kept, counted) = (Arc::clone(&log), Arc::clone(&connections));
        let mut tasks = JoinSet::new();
        let running = Arc::new(Mutex::new(JoinSet::new()));
        let begun = Arc::clone(&running);
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *counted.lock() += 1;
                begun.lock().spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Ok(Self {
            address,
            log,
            requests: Arc::default(),
            connections,
            running,
            _tasks: tasks,
        })
    }

    /// Closes all connections, without a word of TLS.
    pub fn hang_up(&self) {
        self.running.lock().abort_all();
    }

    /// Everything that arrived so far, on all connections.
    pub fn bytes(&self) -> Vec<u8> {
        self.log.lock().clone()
    }

    /// The same as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The requests of an HTTP/1.1 origin so far, as it understood them.
    pub fn requests(&self) -> Vec<Seen> {
        self.requests.lock().clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        *self.connections.lock()
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    (answer, shown): (&Answer, Option<Vec<u8>>),
    log: &Mutex<Vec<u8>>,
    requests: &Mutex<Vec<Seen>>,
) -> Result<()> {
    let mut read = Vec::new();
    loop {
        let Some(mut seen) = request(&mut stream, &mut read, log).await? else {
            return Ok(());
        };
        seen.certificate.clone_from(&shown);
        requests.lock().push(seen.clone());
        let Some(bytes) = answer(&seen) else {
            stream.shutdown().await?;
            return Ok(());
        };
        stream.write_all(&bytes).await?;
    }
}

/// One request off the stream; `None` at its end.
async fn request<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut Vec<u8>,
    log: &Mutex<Vec<u8>>,
) -> Result<Option<Seen>> {
    let end = loop {
        if let Some(at) = find(read, b"\r\n\r\n") {
            break at + 4;
        }
        if !more(stream, read, log).await? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let length = header(&head, "content-length")
        .map(|length| length.parse::<usize>())
        .transpose()?;
    let chunked = header(&head, "transfer-encoding").is_some();
    let whole = loop {
        let body = &read[end..];
        match (length, chunked) {
            (Some(length), _) if body.len() >= length => break end + length,
            (None, true) => {
                if let Some(length) = chunks_end(body) {
                    break end + length;
                }
            }
            (None, false) => break end,
            (Some(_), _) => {}
        }
        if !more(stream, read, log).await? {
            break read.len();
        }
    };
    let body = read[end..whole].to_vec();
    read.drain(..whole);
    Ok(Some(Seen {
        head,
        body,
        certificate: None,
    }))
}

/// Where chunks end, trailers included; by their sizes, as chunks may hold what looks like chunks.
fn chunks_end(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(body.get(at..)?, b"\r\n")?;
        let size = std::str::from_utf8(&body[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
    }
    loop {
        let line = find(body.get(at..)?, b"\r\n")?;
        at += line + 2;
        if line == 0 {
            return Some(at);
        }
    }
}

async fn more<S: AsyncRead + Unpin>(stream: &mut S, read: &mut Vec<u8>, log: &Mutex<Vec<u8>>) -> Result<bool> {
    let mut buffer = vec![0; 16 << 10];
    let count = stream.read(&mut buffer).await?;
    read.extend_from_slice(&buffer[..count]);
    log.lock().extend_from_slice(&buffer[..count]);
    Ok(count > 0)
}

/// A header's value in a head.
pub fn header(head: &str, name: &str) -> Option<String> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// 200 with this body.
pub fn ok(body: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    Some(bytes)
}

/// An origin that answers each request with the head and body that it got: the worst that an allowed host may do.
pub fn echo() -> Answer {
    Arc::new(|seen| ok([seen.head.as_bytes(), &seen.body].concat()))
}

/// The same answer to every request.
pub fn always(bytes: impl Into<Vec<u8>>) -> Answer {
    let bytes = bytes.into();
    Arc::new(move |_seen| Some(bytes.clone()))
}
