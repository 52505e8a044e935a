//! CredentialBinding: these sessions may use this credential, there, until then.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::Evidence;
use crate::schema;

/// These sessions may use this credential, there, until then. Deleting or reverting it revokes it.
#[derive(Clone, CustomResource, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "CredentialBinding",
    plural = "credentialbindings",
    shortname = "cbind",
    category = "berth",
    namespaced,
    status = "CredentialBindingStatus",
    derive = "PartialEq",
    doc = "These sessions may use this credential, there, until then. Deleting or reverting it revokes it.",
    selectable = ".spec.credential.name",
    printcolumn(
        name = "Active",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Active\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Credential", type_ = "string", json_path = ".spec.credential.name"),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".status.sessions"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Commit", type_ = "string", json_path = ".status.grant.commit", priority = 1),
    printcolumn(name = "PR", type_ = "string", json_path = ".status.grant.pullRequest", priority = 1),
    printcolumn(name = "Hosts", type_ = "string", json_path = ".spec.routes[*].host", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("self.routes.all(r, has(r.inject.awsSigV4) == has(self.credential.source.awsSigV4))", "an AWS key is signed with, and nothing else is: source.awsSigV4 and inject.awsSigV4 go together"),
    ("!has(self.notBefore) || !has(self.expiresAt) || timestamp(self.notBefore) < timestamp(self.expiresAt)", "notBefore must be earlier than expiresAt"),
    ("!self.routes.exists(r, has(r.inject.clientCertificate)) || (has(self.credential.source.secretRef) && self.routes.all(r, has(r.inject.clientCertificate)))", "a client certificate comes from secretRef, and each of its binding's routes injects it as clientCertificate"),
])))]
pub struct CredentialBindingSpec {
    /// The credential and where its value comes from.
    pub credential: Credential,

    /// Which sessions of this namespace: exactly one of the three.
    pub subjects: Subjects,

    /// Where it may be used.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::unique_names()))]
    pub routes: Vec<Route>,

    /// Not usable before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,

    /// Not usable from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,

    /// Why it is needed, for reviewers and the audit trail.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,

    /// What happens to open streams at revocation: cut them (default) or let them drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke: Option<Revocation>,

    /// Refuse it while set.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub suspend: bool,
}

/// A credential and where its value comes from.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// Environment variable that the agent sees, holding a stub.
    #[schemars(schema_with = "schema::env_name")]
    pub name: String,

    /// Shape of the stub, for programs that check what a token looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stub: Option<Stub>,

    /// Where the real value comes from: exactly one.
    pub source: CredentialSource,
}

/// Shape of a stub.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stub {
    /// What it begins with, such as `ghp_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::stub_prefix")]
    pub prefix: Option<String>,

    /// Its whole length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 24, max = 256))]
    pub length: Option<i32>,
}

/// Where a credential's value comes from.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::exactly_one(&["secretRef", "githubApp", "liteLLMKey", "oauth2", "awsSigV4"])))]
pub struct CredentialSource {
    /// One key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,

    /// Installation tokens of a GitHub App.
    #[serde(default, rename = "githubApp", skip_serializing_if = "Option::is_none")]
    pub github_app: Option<GitHubApp>,

    /// A virtual key of a LiteLLM gateway, derived for each session.
    #[serde(default, rename = "liteLLMKey", skip_serializing_if = "Option::is_none")]
    pub lite_llm_key: Option<LiteLLMKey>,

    /// An OAuth 2.0 client.
    #[serde(default, rename = "oauth2", skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2>,

    /// AWS requests, signed anew.
    #[serde(default, rename = "awsSigV4", skip_serializing_if = "Option::is_none")]
    pub aws_sig_v4: Option<AwsSigV4>,
}

/// One key of a Secret of the same namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the Secret.
    #[schemars(schema_with = "schema::dns_name")]
    pub name: String,

    /// Key within it.
    #[schemars(schema_with = "schema::secret_key")]
    pub key: String,
}

/// Installation tokens of a GitHub App.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GitHubApp {
    /// The App's id.
    #[serde(rename = "appID")]
    #[schemars(range(min = 1))]
    pub app_id: i64,

    /// The installation's id.
    #[serde(rename = "installationID")]
    #[schemars(range(min = 1))]
    pub installation_id: i64,

    /// The App's private key.
    pub private_key_ref: KeyRef,

    /// Repositories that the tokens are narrowed to, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::repository_names")]
    pub repositories: Vec<String>,

    /// Permissions that the tokens are narrowed to, such as `contents: read`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::permissions")]
    pub permissions: BTreeMap<String, String>,
}

/// A virtual key of a LiteLLM gateway.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LiteLLMKey {
    /// Name of the gateway in the install's configuration.
    #[schemars(schema_with = "schema::dns_name")]
    pub gateway: String,

    /// Models that the key may use; all that the gateway has when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::models")]
    pub models: Vec<String>,
}

/// An OAuth 2.0 client.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("has(self.clientSecretRef) || has(self.refreshTokenRef)", "one of clientSecretRef and refreshTokenRef is needed"),
])))]
pub struct OAuth2 {
    /// Token endpoint, https.
    #[serde(rename = "tokenURL")]
    #[schemars(schema_with = "schema::https_url")]
    pub token_url: String,

    /// Client id.
    #[serde(rename = "clientID")]
    #[schemars(length(min = 1, max = 256))]
    pub client_id: String,

    /// Client secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<KeyRef>,

    /// Refresh token; a rotated one is written back, for which ServiceAccount `berth-credentials` has to be allowed to
    /// patch that Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token_ref: Option<KeyRef>,

    /// How the client proves who it is: by HTTP `Basic` (default), or in the `Body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ClientAuthentication")]
    pub client_authentication: Option<ClientAuthentication>,

    /// Revocation endpoint (RFC 7009), https: access tokens are revoked there when the binding grants no more.
    #[serde(default, rename = "revocationURL", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::https_url")]
    pub revocation_url: Option<String>,

    /// Scopes to ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::scopes")]
    pub scopes: Vec<String>,
}

/// How a client with a secret proves who it is (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ClientAuthentication {
    /// HTTP Basic.
    #[default]
    Basic,
    /// `client_id` and `client_secret` in the form.
    Body,
}

/// AWS requests, signed anew with a key that the agent never has.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsSigV4 {
    /// Access key id.
    pub access_key_ref: KeyRef,

    /// Secret access key.
    pub secret_key_ref: KeyRef,

    /// Session token, for a temporary key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token_ref: Option<KeyRef>,

    /// Region that requests are signed for.
    #[schemars(schema_with = "schema::item_name")]
    pub region: String,

    /// Services that may be called, such as `s3`.
    #[schemars(schema_with = "schema::services")]
    pub services: Vec<String>,
}

/// Which sessions: exactly one of the three.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::subject_rules()))]
pub struct Subjects {
    /// Sessions by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_selector: Option<SessionSelector>,

    /// Sessions by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::object_names")]
    pub session_names: Vec<String>,

    /// Every session of the namespace that lists the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_sessions: Option<bool>,
}

/// Selects sessions by label. Never empty. Labels under `berth.dev/`, `kustomize.toolkit.fluxcd.io/` and
/// `helm.toolkit.fluxcd.io/`, which are added by whoever applies a session, select nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)", "sessionSelector must not be empty; write allSessions: true to mean every session"),
])))]
pub struct SessionSelector {
    /// Labels that all must be there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub match_labels: BTreeMap<String, String>,

    /// Requirements that all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<SelectorRequirement>,
}

impl SessionSelector {
    /// Whether an object with these labels is selected, by Kubernetes' rules. An empty selector selects nothing here.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let some = !self.match_labels.is_empty() || !self.match_expressions.is_empty();
        let equal = self
            .match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        some && equal
            && self
                .match_expressions
                .iter()
                .all(|requirement| requirement.holds(labels))
    }
}

impl SelectorRequirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// One requirement of a selector.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)", "In and NotIn need values, Exists and DoesNotExist take none"),
])))]
pub struct SelectorRequirement {
    /// Label key.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,

    /// How the label is compared.
    pub operator: Operator,

    /// Values for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_values")]
    pub values: Vec<String>,
}

/// How a selector compares.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or isn't there.
    NotIn,
    /// The label is there.
    Exists,
    /// The label isn't there.
    DoesNotExist,
}

/// Where a credential may be used, and how it is put into a request.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Name of the route, unique in the list.
    #[schemars(schema_with = "schema::item_name")]
    pub name: String,

    /// Host, exact or `*.example.com` for one label.
    #[schemars(schema_with = "schema::host_pattern")]
    pub host: String,

    /// Ports; 443 when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::ports")]
    pub ports: Vec<i32>,

    /// Methods; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::methods")]
    pub methods: Vec<String>,

    /// Path patterns; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::paths")]
    pub paths: Vec<String>,

    /// Networks that the host may resolve to although they aren't public, such as `10.0.0.0/8`. Metadata services are
    /// never reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::networks")]
    pub addresses: Vec<String>,

    /// Whether an upgrade to WebSocket is allowed.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub websocket: bool,

    /// Where in the request the stub is exchanged: exactly one.
    pub inject: Injection,

    /// Limits for git over HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitRoute>,

    /// The route reaches an endpoint that hands out credentials or approves changes, and is meant to.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub minting: bool,

    /// Whether `Set-Cookie` reaches the agent.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub set_cookie: bool,

    /// The route's part in an OAuth 2.0 flow that the agent itself runs: `Endpoint` gives tokens, of which the agent finds
    /// stubs; on a route with `Minted` those are exchanged, and never the credential's own value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tokens")]
    pub tokens: Option<Tokens>,

    /// Certificates (PEM) that the host is verified with on this route, in place of all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::certificates")]
    pub ca: Option<String>,
}

/// A route's part in an OAuth 2.0 flow that the agent itself runs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Tokens {
    /// The token endpoint.
    Endpoint,
    /// A place for its tokens.
    Minted,
}

/// Where in a request the stub is exchanged.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::exactly_one(&["header", "basic", "query", "body", "clientCertificate", "awsSigV4"])))]
pub struct Injection {
    /// In a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderInjection>,

    /// As the password of HTTP Basic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicInjection>,

    /// In a query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<ValueInjection>,

    /// In a form or JSON body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<ValueInjection>,

    /// As the client's certificate, from a Secret of type `kubernetes.io/tls` (`key: tls.crt`), or from a key that holds
    /// both chain and private key in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<Empty>,

    /// As an AWS signature: the request is signed anew, for the region and the services of the source.
    #[serde(default, rename = "awsSigV4", skip_serializing_if = "Option::is_none")]
    pub aws_sig_v4: Option<AwsInjection>,
}

/// Which signed requests are taken.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsInjection {
    /// Whether presigned URLs are taken.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub presigned: bool,

    /// Whether parts of objects may be asked for, as `aws s3 cp` does from 8 MiB on. Answers are then not searched for
    /// the id of the key.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub ranges: bool,
}

/// Exchange in a header.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderInjection {
    /// Name of the header, such as `Authorization`.
    #[schemars(schema_with = "schema::header_name")]
    pub name: String,

    /// Forms that the value may have, such as `Bearer {}`; the stub alone when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::header_forms")]
    pub forms: Vec<String>,
}

/// Exchange in the password of HTTP Basic.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BasicInjection {
    /// User name that the request must carry; any when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub username: Option<String>,
}

/// Exchange in a named value.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ValueInjection {
    /// Name of the parameter, form field or JSON pointer.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
}

/// Nothing more to say.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Empty {}

/// Limits for git over HTTPS.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GitRoute {
    /// Repositories, as `owner/name`.
    #[schemars(schema_with = "schema::repository_paths")]
    pub repos: Vec<String>,

    /// Whether pushes are allowed.
    pub access: GitAccess,

    /// Refs that may be pushed to, as prefixes such as `refs/heads/agent/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::ref_prefixes")]
    pub ref_prefixes: Vec<String>,

    /// Whether a push may change CI definitions and CODEOWNERS: `Refuse` (default) or `Allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ProtectedPaths")]
    pub protected_paths: Option<ProtectedPaths>,
}

/// Whether a push may change what runs or approves by itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ProtectedPaths {
    /// It is refused.
    #[default]
    Refuse,
    /// It may.
    Allow,
}

/// What a session may do with a repository.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum GitAccess {
    /// Fetch.
    #[default]
    Read,
    /// Fetch and push.
    Write,
}

/// What happens to open streams when a credential is revoked.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::exactly_one(&["cutStreams", "drain"])))]
pub struct Revocation {
    /// End them within two seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_streams: Option<Empty>,

    /// Let them go on this long, at most 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::drain")]
    pub drain: Option<kube::core::Duration>,
}

/// What is known of a binding.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialBindingStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,

    /// The binding's state in conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The grant as sealed by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,

    /// Sessions that hold it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,
}

/// A grant and its evidence.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Hash of everything that matters to security.
    pub fingerprint: String,
    /// The repository that the document stands in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<GrantRepository>,
    /// Hashes of its elements: a subset is a narrowing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub elements: Vec<String>,
    /// The commit that granted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// URL of the pull request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<String>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Whose key signed the author's commit, as the install's configuration names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Who approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub approvers: Vec<Approval>,
    /// What was proven.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub evidence: Vec<Evidence>,
    /// From when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_at: Option<Time>,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// HMAC by the install's key over all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

/// A repository that a grant's document stands in.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantRepository {
    /// As the GitSource names it.
    pub url: String,
    /// Its branch.
    pub branch: String,
    /// The forge's id of it, once the forge has said it.
    #[serde(default, rename = "repositoryID", skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<i64>,
}

/// One approval of a pull request.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// The forge's user name.
    pub user: String,
    /// The head that was approved.
    pub commit: String,
    /// Teams of the policies that the user belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub teams: Vec<String>,
    /// Whether the user had a part in what was approved.
    #[serde(default, skip_serializing_if = "schema::is_false")]
    pub own: bool,
}
