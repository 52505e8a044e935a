//! hudsucker as a peer: one header is replaced in every request, nothing else is looked at.
//!
//! `peer-hudsucker LISTEN CA_CERTIFICATE CA_KEY UPSTREAM_CA ORIGIN`. TLS is rustls with aws-lc-rs on both legs, the
//! connector is what `with_rustls_connector` makes but for its roots, and every host is found at ORIGIN.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::iter::{Once, once};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, HeaderValue};
use hudsucker::certificate_authority::RcgenAuthority;
use hudsucker::hyper::Request;
use hudsucker::hyper_util::client::legacy::connect::HttpConnector;
use hudsucker::hyper_util::client::legacy::connect::dns::Name;
use hudsucker::rcgen::{Issuer, KeyPair};
use hudsucker::rustls::crypto::aws_lc_rs;
use hudsucker::rustls::{ClientConfig, RootCertStore};
use hudsucker::{Body, HttpContext, HttpHandler, Proxy, RequestOrResponse};
use hyper_rustls::HttpsConnectorBuilder;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Replaces the header, as a credential injector does.
#[derive(Clone)]
struct Replace;

impl HttpHandler for Replace {
    async fn handle_request(&mut self, _context: &HttpContext, mut request: Request<Body>) -> RequestOrResponse {
        if request.headers().contains_key(AUTHORIZATION) {
            request
                .headers_mut()
                .insert(AUTHORIZATION, HeaderValue::from_static(VALUE));
        }
        request.into()
    }
}

/// Every name is at one address.
#[derive(Clone)]
struct Everywhere(IpAddr);

impl tower_service::Service<Name> for Everywhere {
    type Response = Once<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _name: Name) -> Self::Future {
        ready(Ok(once(SocketAddr::new(self.0, 0))))
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, certificate, key, upstream, origin] = &arguments[..] else {
        return Err("usage: peer-hudsucker LISTEN CA_CERTIFICATE CA_KEY UPSTREAM_CA ORIGIN".into());
    };
    let key = KeyPair::from_pem(&std::fs::read_to_string(key)?)?;
    let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(certificate)?, key)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(upstream)?)?;
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new_with_resolver(Everywhere(origin.parse()?));
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let proxy = Proxy::builder()
        .with_addr(listen.parse()?)
        .with_ca(RcgenAuthority::new(issuer, 1_000, aws_lc_rs::default_provider()))
        .with_http_connector(connector)
        .with_http_handler(Replace)
        .build()?;
    Ok(proxy.start().await?)
}

const VALUE: &str = "Bearer fake-secret-value-0123456789";
