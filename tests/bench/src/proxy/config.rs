//! What the proxies are told: ours its policy, Envoy its listeners, mitmproxy its addon.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::authority::HOST;

/// What the client sends.
pub(crate) const STUB: &str = "stub_fake_token_0000_0123456789abcdef";
/// What the origin gets.
const VALUE: &str = "fake-secret-value-0123456789";

/// What our policy is made of.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Routes, each for another host.
    pub(crate) routes: usize,
    /// Whether values are taken out of answers.
    pub(crate) redact: bool,
}

/// The full policy of the comparison.
pub(crate) const FULL: Shape = Shape {
    routes: 100,
    redact: true,
};

/// Credentials, which the routes share in turn: more than a session has.
const CREDENTIALS: usize = 10;

/// Writes `policy.yaml` and the values beside it. The first route is the origin's.
pub(crate) fn policy(directory: &Path, port: u16, shape: Shape) -> Result<()> {
    let mut text = "credentials:\n".to_owned();
    for number in 0..CREDENTIALS.min(shape.routes) {
        let stub = STUB.replace("0000", &format!("{number:04}"));
        let redact = shape.redact;
        writeln!(
            text,
            "  - {{name: TOKEN{number}, stub: {stub}, source: {{file: value{number}}}, redact: {redact}}}"
        )?;
        let value = if number == 0 {
            VALUE.to_owned()
        } else {
            format!("{VALUE}-{number:04}")
        };
        std::fs::write(directory.join(format!("value{number}")), value)?;
    }
    text.push_str("routes:\n");
    for number in 0..shape.routes {
        let host = if number == 0 {
            HOST.to_owned()
        } else {
            format!("host{number}.example.com")
        };
        let credential = number % CREDENTIALS;
        // Nothing that can be left out: the sidecar's YAML reader takes 250,000 nodes, and 10,000 routes have 230,000.
        let loopback = if number == 0 { "addresses: [127.0.0.0/8], " } else { "" };
        write!(
            text,
            "  - {{name: route{number}, host: {host}, ports: [{port}], methods: [GET, POST], {loopback}"
        )?;
        write!(text, "credential: TOKEN{credential}, ")?;
        writeln!(
            text,
            "inject: {{header: {{name: authorization, forms: [\"Bearer {{}}\"]}}}}}}"
        )?;
    }
    Ok(std::fs::write(directory.join("policy.yaml"), text)?)
}

/// Envoy as a forward proxy that injects: `CONNECT` ends at a listener, whose bytes go to an internal one with a static
/// certificate, the injector, and TLS to the origin (research: vault-proxy, 1.3).
pub(crate) fn envoy(directory: &Path, listen: u16, origin: u16) -> String {
    let file = |name: &str| directory.join(name).display().to_string();
    let (certificate, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    ENVOY
        .replace("@LISTEN", &listen.to_string())
        .replace("@ORIGIN", &origin.to_string())
        .replace("@HOST", HOST)
        .replace("@CERTIFICATE", &certificate)
        .replace("@KEY", &key)
        .replace("@CA", &ca)
        .replace("@VALUE", VALUE)
}

const ENVOY: &str = r#"
bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener
static_resources:
  secrets:
  - name: credential
    generic_secret: {secret: {inline_string: "Bearer @VALUE"}}
  listeners:
  - name: proxy
    address: {socket_address: {address: 127.0.0.1, port_value: @LISTEN}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: proxy
          stream_idle_timeout: 0s
          upgrade_configs: [{upgrade_type: CONNECT}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {connect_matcher: {}}
                route: {cluster: inner, timeout: 0s, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  - name: inner
    internal_listener: {}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [http/1.1]
            tls_certificates: [{certificate_chain: {filename: @CERTIFICATE}, private_key: {filename: @KEY}}]
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: inner
          stream_idle_timeout: 0s
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: origin, timeout: 0s}}]
          http_filters:
          - name: envoy.filters.http.credential_injector
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector
              overwrite: true
              credential:
                name: envoy.http.injected_credentials.generic
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic
                  credential: {name: credential}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: inner
    type: STATIC
    circuit_breakers: {thresholds: [{max_connections: 16384, max_requests: 16384, max_pending_requests: 16384}]}
    load_assignment:
      cluster_name: inner
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {envoy_internal_address: {server_listener_name: inner}}}
  - name: origin
    type: STATIC
    circuit_breakers: {thresholds: [{max_connections: 4096, max_requests: 4096, max_pending_requests: 4096}]}
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @ORIGIN}}}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: @HOST
        common_tls_context:
          # Left to itself it speaks TLS 1.2 to origins.
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
          validation_context:
            trusted_ca: {filename: @CA}
            match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: @HOST}}]
"#;

/// mitmproxy's addon: the same header, and the origin at its address.
pub(crate) fn mitmproxy() -> String {
    let addon = r#"
def server_connect(data):
    host, port = data.server.address
    data.server.address = ("127.0.0.1", port)

def request(flow):
    flow.request.headers["authorization"] = "Bearer @VALUE"
"#;
    addon.replace("@VALUE", VALUE)
}
