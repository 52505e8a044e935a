//! What the agent's programs find in their environment: the proxy, and the certificates that they have to trust
//! (research/vault-proxy.md §3). The runner sets it; `berth-sidecar stubs` prints it.

use std::net::SocketAddr;

/// Variables for the proxy at `proxy` and the certificates in `handoff`.
pub fn of(handoff: &str, proxy: SocketAddr) -> Vec<(String, String)> {
    let url = format!("http://{proxy}");
    let proxies = PROXIES.iter().map(|name| (*name, url.clone()));
    let bundles = BUNDLES.iter().map(|name| (*name, format!("{handoff}/{BUNDLE_FILE}")));
    let authorities = AUTHORITIES.iter().map(|name| (*name, format!("{handoff}/{CA_FILE}")));
    let java = format!(
        "-Dhttp.proxyHost={0} -Dhttp.proxyPort={1} -Dhttps.proxyHost={0} -Dhttps.proxyPort={1} \
        -Djavax.net.ssl.trustStore={handoff}/{JAVA_FILE} -Djavax.net.ssl.trustStoreType=JKS",
        proxy.ip(),
        proxy.port()
    );
    let others = [
        ("NO_PROXY", LOCAL.to_owned()),
        ("no_proxy", LOCAL.to_owned()),
        ("NODE_USE_ENV_PROXY", "1".to_owned()),
        ("JAVA_TOOL_OPTIONS", java),
    ];
    let all = proxies.chain(bundles).chain(authorities).chain(others);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The session's authority alone, in `handoff`.
pub const CA_FILE: &str = "ca.crt";
/// The same after the public ones.
pub const BUNDLE_FILE: &str = "ca-bundle.crt";

/// What is in the bundle, as Java reads it.
pub const JAVA_FILE: &str = "ca-bundle.jks";

/// Both cases: programs read one or the other.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];
/// They replace what a program trusts, so they name the bundle.
const BUNDLES: [&str; 11] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "npm_config_cafile",
];
/// They add to it.
const AUTHORITIES: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
/// Nothing else: the old product's `.svc` was a way round the proxy.
const LOCAL: &str = "localhost,127.0.0.1,::1";
