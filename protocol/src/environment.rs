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

/// Variables by which AWS's SDKs and command line find a key that the agent knows as stubs: one by one, and as the
/// credentials of a container, which the sidecar answers for ("Container credential provider", AWS SDKs and Tools
/// Reference Guide).
pub fn aws(name: &str, stub: &str, secret_stub: &str, proxy: SocketAddr) -> Vec<(String, String)> {
    vec![
        (name.to_owned(), stub.to_owned()),
        (aws_secret_name(name), secret_stub.to_owned()),
        (AWS_URI.to_owned(), format!("http://{proxy}{AWS_PATH}{name}")),
        (AWS_TOKEN.to_owned(), stub.to_owned()),
    ]
}

/// The variable with the secret access key, beside the one with its id: `AWS_SECRET_ACCESS_KEY` for
/// `AWS_ACCESS_KEY_ID`.
pub fn aws_secret_name(name: &str) -> String {
    match name.strip_suffix("ACCESS_KEY_ID") {
        Some(before) => format!("{before}SECRET_ACCESS_KEY"),
        None => format!("{name}_SECRET_ACCESS_KEY"),
    }
}

/// Variable with the URL that answers with a key.
pub const AWS_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
/// Variable with what has to stand in `Authorization` there.
pub const AWS_TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
/// Where the proxy's own port answers with keys, by the names of the credentials.
pub const AWS_PATH: &str = "/aws/credentials/";

/// Port of the proxy in a pod, on loopback.
pub const PROXY_PORT: u16 = 14322;

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
