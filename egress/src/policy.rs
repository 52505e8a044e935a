//! The closed grammar: a file for a sidecar that stands alone, JSON over the control stream. Names and spelling are
//! those of CredentialBinding (`crds/src/binding.rs`), whose routes are compiled into this.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What a session's requests may do. Nothing that isn't said here is allowed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Number of this snapshot; a later one is higher (DESIGN §8, `Grants`).
    #[serde(default)]
    pub revision: u64,

    /// Credentials that routes may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,

    /// What is allowed. Their order means nothing: a request is allowed by the union of those that match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
}

/// A credential, known to the agent as its stub.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credential {
    /// Its name, the agent's environment variable. Unique.
    pub name: String,

    /// What the agent holds in its place: at least 24 of `A-Z a-z 0-9 _ . ~ -`, part of no other stub (§5.2). Public.
    pub stub: String,

    /// Of an AWS key: what the agent signs with in place of the secret access key; `stub` stands for the key's id and
    /// the session token. Made like a stub, and sent nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_stub: Option<String>,

    /// Where the value is, for a sidecar that stands alone; otherwise the controller pushes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,

    /// Whether its value is taken out of responses (rows 28-32). True unless said otherwise.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub redact: bool,
}

/// Where a value is: one of these.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// In a file, by its path; one line end at its end isn't part of it.
    File(String),
    /// In an environment variable of the sidecar, by its name.
    Env(String),
    /// An AWS key, each part by itself.
    Aws(Box<AwsSource>),
    /// An access token that the sidecar asks for itself.
    #[serde(rename = "oauth2")]
    OAuth2(Box<OAuth2>),
}

/// Where the parts of an AWS key are.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsSource {
    /// Id of the access key.
    pub access_key: Kept,
    /// Secret access key.
    pub secret_key: Kept,
    /// Session token, for a temporary key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Kept>,
}

/// Where something is that an access token is asked for with.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kept {
    /// In a file, as [`Source::File`]. A refresh token that is rotated is written into it.
    File(String),
    /// In an environment variable, as [`Source::Env`].
    Env(String),
}

/// An OAuth 2.0 client: client credentials, or with a refresh token that flow.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OAuth2 {
    /// Token endpoint, https.
    #[serde(rename = "tokenURL")]
    pub token_url: String,

    /// Client id.
    #[serde(rename = "clientID")]
    pub client_id: String,

    /// Client secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Kept>,

    /// Refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Kept>,

    /// How the client proves who it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_authentication: ClientAuthentication,

    /// Scopes to ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,

    /// Networks that the endpoint may be in although they aren't public.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
}

/// How a client with a secret proves who it is (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum ClientAuthentication {
    /// HTTP Basic.
    #[default]
    Basic,
    /// In the form.
    Body,
}

/// One thing that is allowed.
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the grammar by itself")]
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Its name, unique; audit rows and denials say it.
    pub name: String,

    /// Which hosts: `api.example.com`, `*.example.com`, `**.example.com` (row 6), or an address.
    pub host: String,

    /// Ports; 443 when left out, 80 for `tls: Plain` (row 15).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,

    /// Methods. All when left out, but a route with a credential names them, or says `["*"]` (§5.2). `git` implies
    /// its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,

    /// Path patterns, `/a/*/b` and `/a/**` (row 24); `/**` when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,

    /// The credential that may be used here, by name; then `inject` says where in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,

    /// Where in the request the stub is exchanged (row 33).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<Injection>,

    /// Limits for git over HTTPS; nothing but git passes then (row 26).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitRoute>,

    /// Whether a push by `git` may add or change CI definitions, CODEOWNERS and paths that a GitSource tracks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protected_paths: ProtectedPaths,

    /// What becomes of the connection.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: Tls,

    /// Whether an upgrade to WebSocket is allowed (row 37).
    #[serde(default, skip_serializing_if = "is_default")]
    pub websocket: bool,

    /// Networks that the host may resolve to although they aren't public (row 13).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,

    /// Overrides the credential's `redact` on this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redact: Option<bool>,

    /// Whether `Set-Cookie` reaches the agent although the route has a credential (DESIGN §7).
    #[serde(default, skip_serializing_if = "is_default")]
    pub set_cookie: bool,

    /// Whether `Range` is kept on a host whose responses are redacted (row 32). Not with a redacted credential.
    #[serde(default, skip_serializing_if = "is_default")]
    pub range: bool,

    /// The route reaches an endpoint that mints credentials or approves changes, and is meant to (DESIGN §7, row 36).
    #[serde(default, skip_serializing_if = "is_default")]
    pub minting: bool,

    /// What the route has to do with tokens that the agent's own OAuth 2.0 flow gives (row 36).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,

    /// Certificates in PEM that the host is verified with here, in place of all others (row 43).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,

    /// Headers that the agent has no say in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers: Headers,
}

/// Headers of a route's requests that are the sidecar's own: what the agent sends of them is dropped.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Headers {
    /// Prefixes of names, in small letters, such as `x-litellm-`: these never leave as the agent sent them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_prefixes: Vec<String>,

    /// Names and what they say, in place of what the agent sent. Nothing secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
}

/// A route's part in an OAuth 2.0 flow that the agent runs with the stub of a client's secret.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Tokens {
    /// It is the token endpoint: tokens in its answers become stubs, and refresh tokens in requests are exchanged back.
    Endpoint,
    /// Such a token is exchanged here, by its stub; never the credential's own value.
    Minted,
}

/// Where in a request a stub is exchanged: one of these.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Injection {
    /// In a header.
    Header(HeaderInjection),
    /// As the password of HTTP Basic, in `Authorization`.
    Basic(BasicInjection),
    /// In a query parameter. Needs redaction (§5.2).
    Query(ValueInjection),
    /// In a form or JSON body. Needs redaction (§5.2).
    Body(ValueInjection),
    /// As the client's certificate: the value is its chain and key in PEM, and no stub is sent.
    ClientCertificate(Empty),
    /// As an AWS signature (Signature Version 4): the request is signed anew.
    #[serde(rename = "awsSigV4")]
    AwsSigV4(AwsInjection),
}

/// Exchange in a header.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderInjection {
    /// Name of the header, such as `Authorization`.
    pub name: String,

    /// Forms that the whole value may have, such as `Bearer {}`; the stub alone when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forms: Vec<String>,
}

/// Exchange in the password of HTTP Basic.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BasicInjection {
    /// User name that the request must carry; any when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// Exchange in a named value.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueInjection {
    /// Name of the parameter, form field or JSON pointer.
    pub name: String,
}

/// Which signatures are exchanged.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsInjection {
    /// The region that requests are signed for; as the host names it when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,

    /// Services that they are signed for, such as `s3`.
    pub services: Vec<String>,

    /// Whether presigned URLs are taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub presigned: bool,
}

/// Nothing more to say.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// Limits for git over HTTPS.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitRoute {
    /// Repositories, as `owner/name`, with or without `.git` in the request.
    pub repos: Vec<String>,

    /// Whether pushes are allowed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access: GitAccess,

    /// Refs that may be pushed to, as prefixes such as `refs/heads/agent/`; any when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ref_prefixes: Vec<String>,

    /// Paths that a push doesn't touch, as globs, beside CI definitions and CODEOWNERS, unless `protectedPaths` says so:
    /// what a GitSource reads in these repositories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protect: Vec<String>,
}

/// What may be done with a repository.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum GitAccess {
    /// Fetch.
    #[default]
    Read,
    /// Fetch and push.
    Write,
}

/// What becomes of a push that touches what runs or approves things beyond the session.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum ProtectedPaths {
    /// It is refused.
    #[default]
    Refuse,
    /// It passes.
    Allow,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Tls {
    /// TLS ends at the sidecar, which sees and judges each request.
    #[default]
    Terminate,
    /// TLS is passed on unseen; only host and port are judged. Never with a credential (§5.2).
    Passthrough,
    /// HTTP without TLS. Never with a credential (§5.2).
    Plain,
}

impl Credential {
    /// Everything that stands in its place.
    pub fn stubs(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.stub.as_str()).chain(self.secret_stub.as_deref())
    }
}

impl Route {
    /// Its ports, the default filled in.
    pub fn effective_ports(&self) -> Vec<u16> {
        match (self.ports.as_slice(), self.tls) {
            ([], Tls::Plain) => vec![80],
            ([], Tls::Passthrough | Tls::Terminate) => vec![443],
            (ports, _) => ports.to_vec(),
        }
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_true(value: &bool) -> bool {
    *value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
