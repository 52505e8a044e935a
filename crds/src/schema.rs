//! Pieces of the OpenAPI schemas: bounded strings, lists and maps, and the rules the API server checks.
//!
//! Everything has a bound, so that the cost of each CEL rule can be estimated when the CRD is installed. There is no
//! `default:` inside list items, as Argo CD would show a difference for ever (research/gitops.md §0.6).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::{AgentPool, AgentSession, CredentialBinding, GitSource, GrantPolicy, NAME_MAX};

/// The five CustomResourceDefinitions, in alphabetical order.
pub fn all() -> Vec<CustomResourceDefinition> {
    [
        AgentPool::crd(),
        AgentSession::crd(),
        CredentialBinding::crd(),
        GitSource::crd(),
        GrantPolicy::crd(),
    ]
    .into_iter()
    .map(finish)
    .collect()
}

/// Adds what the derive can't say: the status default that kstatus needs, the rule on names, descriptions that
/// `kubectl explain` wraps by itself, and the annotation that keeps Flux from substituting `${…}` in them.
fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let annotations = crd.metadata.annotations.get_or_insert_default();
    annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    annotations.insert(
        "kustomize.toolkit.fluxcd.io/substitute".to_owned(),
        "disabled".to_owned(),
    );
    for version in &mut crd.spec.versions {
        let Some(root) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        root.x_kubernetes_validations = Some(vec![name_rule()]);
        unwrap_descriptions(root);
        if let Some(status) = root
            .properties
            .as_mut()
            .and_then(|properties| properties.get_mut("status"))
        {
            finish_status(status);
        }
    }
    crd
}

/// Joins the lines of a paragraph: the source's line width is not the reader's.
fn unwrap_descriptions(schema: &mut JSONSchemaProps) {
    if let Some(text) = &mut schema.description {
        let paragraphs: Vec<String> = text
            .split("\n\n")
            .map(|paragraph| paragraph.replace('\n', " "))
            .collect();
        *text = paragraphs.join("\n\n");
    }
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
    {
        unwrap_descriptions(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        unwrap_descriptions(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        unwrap_descriptions(values);
    }
}

fn finish_status(status: &mut JSONSchemaProps) {
    status.nullable = None;
    status.default = Some(JSON(json!({"observedGeneration": -1})));
}

fn name_rule() -> ValidationRule {
    ValidationRule {
        rule: format!(
            "self.metadata.name.size() <= {NAME_MAX} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
        ),
        message: Some(format!(
            "metadata.name must be at most {NAME_MAX} characters: lower-case letters, digits and '-', beginning with a letter"
        )),
        ..ValidationRule::default()
    }
}

/// `x-kubernetes-validations` of pairs of rule and message.
pub(crate) fn rules(rules: &[(&str, &str)]) -> Value {
    rules
        .iter()
        .map(|(rule, message)| json!({"rule": rule, "message": message}))
        .collect()
}

/// Rule on a list of items with a `name`.
pub(crate) fn unique_names() -> Value {
    rules(&[(
        "self.all(x, self.exists_one(y, y.name == x.name))",
        "each item's name must be unique in the list",
    )])
}

/// Rule on an object of which exactly one field is set.
pub(crate) fn exactly_one(fields: &[&str]) -> Value {
    let set: Vec<String> = fields.iter().map(|field| format!("has(self.{field})")).collect();
    let rule = format!("[{}].filter(x, x).size() == 1", set.join(", "));
    rules(&[(&rule, &format!("exactly one of {} must be set", fields.join(", ")))])
}

/// Rules on a binding's subjects.
pub(crate) fn subject_rules() -> Value {
    rules(&[
        (
            "[has(self.sessionSelector), has(self.sessionNames), has(self.allSessions)].filter(x, x).size() == 1",
            "exactly one of sessionSelector, sessionNames, allSessions must be set",
        ),
        (
            "!has(self.sessionNames) || size(self.sessionNames) > 0",
            "sessionNames must not be empty",
        ),
        (
            "!has(self.allSessions) || self.allSessions",
            "allSessions must be true when it is set",
        ),
    ])
}

/// Rules on a variable's name: what would lead the process round the proxy or into another program.
pub(crate) fn env_rules() -> Value {
    let reserved = "!self.name.upperAscii().startsWith('BERTH_')";
    let proxy = "!self.name.upperAscii().matches('^(ALL|FTP|HTTPS?|NO|SOCKS[45]?)_PROXY$')";
    let tls = "!self.name.upperAscii().matches('^(SSL_CERT_(FILE|DIR)|.*_CA_BUNDLE|NODE_EXTRA_CA_CERTS|NODE_TLS_REJECT_UNAUTHORIZED|GIT_SSL_.*|CURL_HOME|.*_CAINFO|SSLKEYLOGFILE)$')";
    let loader = "!self.name.upperAscii().matches('^(LD_.*|DYLD_.*|GLIBC_TUNABLES|GCONV_PATH|NODE_OPTIONS|PYTHON(STARTUP|PATH|HOME)|PERL5(LIB|OPT)|RUBY(LIB|OPT)|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|JDK_JAVA_OPTIONS|BASH_ENV|ENV|IFS|PATH|GIT_(CONFIG.*|EXEC_PATH|SSH.*|PROXY.*|ASKPASS))$')";
    rules(&[
        (reserved, "names that begin with BERTH_ are Berth's own"),
        (proxy, "the proxy is set by Berth"),
        (tls, "TLS trust is set by Berth"),
        (
            loader,
            "names that load code or change which program runs are not allowed",
        ),
    ])
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(crate) fn is_zero(value: &i64) -> bool {
    *value == 0
}

fn text(pattern: &str, max: u32) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": max, "pattern": pattern})
}

fn ruled(max: u32, pairs: &[(&str, &str)]) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": max, "x-kubernetes-validations": rules(pairs)})
}

fn list(items: &Schema, min: u32, max: u32) -> Schema {
    json_schema!({"type": "array", "items": items, "minItems": min, "maxItems": max, "x-kubernetes-list-type": "atomic"})
}

macro_rules! schemas {
    ($($name:ident => $schema:expr;)+) => {
        $(pub(crate) fn $name(_: &mut SchemaGenerator) -> Schema { $schema })+
    };
}

const ENV_NAME: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const HOST_PATTERN: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const OBJECT_NAME: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";
const TOKEN: &str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";

schemas! {
    // Names.
    object_name => text(OBJECT_NAME, 52);
    object_names => list(&text(OBJECT_NAME, 52), 0, 64);
    item_name => text(DNS_LABEL, 63);
    dns_name => text(DNS_NAME, 253);
    namespaces => list(&text(DNS_LABEL, 63), 0, 64);
    env_name => text(ENV_NAME, 128);
    run_id => text("^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", 63);
    model => text(r"^[A-Za-z0-9][-A-Za-z0-9_./:@\[\]]*$", 253);
    models => list(&text(r"^[A-Za-z0-9*][-A-Za-z0-9_./:@*\[\]]*$", 253), 0, 64);
    teams => list(&text("^[A-Za-z0-9][-A-Za-z0-9_./]*$", 128), 0, 16);
    pair_names => list(&text(OBJECT_NAME, 63), 0, 8);
    labels => json_schema!({
        "type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 63},
    });
    renderings => json_schema!({
        "type": "object", "maxProperties": 8, "additionalProperties": {"type": "string", "maxLength": 64},
    });
    label_values => list(&json_schema!({"type": "string", "maxLength": 63}), 0, 16);

    // Containers.
    image => text("^[A-Za-z0-9][-A-Za-z0-9_./:@]*$", 512);
    images => list(&text("^[A-Za-z0-9][-A-Za-z0-9_./:@]*$", 512), 0, 32);
    command => list(&json_schema!({"type": "string", "maxLength": 4096}), 0, 64);
    quantity => json_schema!({
        "x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "maxLength": 32,
        "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
    });

    // Times and money.
    duration => ruled(32, &[
        ("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$')", "write a duration such as 90s, 15m or 1h30m"),
    ]);
    interval => ruled(32, &[
        ("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('5s')", "write a duration of at least 5s, such as 30s"),
    ]);
    drain => ruled(32, &[
        ("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) <= duration('60s')", "write a duration of at most 60s"),
    ]);
    lease => ruled(32, &[
        ("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('10s') && duration(self) <= duration('15m')", "write a duration from 10s to 15m"),
    ]);
    money => text(r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?$", 16);

    // Git.
    http_url => url_schema("^https?://[^-/?#@][^/?#@]*(/[^?#]*)?$", "an https or http URL without user, password, query or fragment");
    https_url => url_schema("^https://[^-/?#@][^/?#@]*(/[^?#]*)?$", "an https URL without user, password, query or fragment");
    certificates => text("-----BEGIN CERTIFICATE-----", 16384);
    git_url => url_schema("^(https?://|ssh://([A-Za-z0-9._][A-Za-z0-9._-]*@)?)[^-/?#@][^/?#@]*/[^?#]+$", "an https, http or ssh URL; user and password belong into the Secret");
    git_ref => ruled(255, &[
        ("!self.startsWith('-') && !self.startsWith('/') && !self.endsWith('/') && !self.endsWith('.lock') && !self.contains('..') && !self.contains('//') && !self.contains('@{') && self.matches('^[^\\\\x00-\\\\x20~^:?*\\\\[\\\\\\\\\\\\x7f]+$')", "must be a valid git ref name that doesn't begin with '-'"),
    ]);
    globs => list(&ruled(256, &[
        ("!self.startsWith('/') && !self.startsWith('-') && !self.contains('..')", "a glob is relative to the repository and has no '..'"),
    ]), 0, 32);
    repository_names => list(&text("^[A-Za-z0-9_.-]+$", 100), 0, 64);
    repository_paths => list(&text("^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+$", 255), 1, 64);
    repository_folder => ruled(255, &[
        ("!self.startsWith('/') && !self.contains('..')", "a folder is relative to the repository and has no '..'"),
    ]);
    ref_prefixes => list(&text(r"^refs/(heads|tags)/[A-Za-z0-9_./-]*$", 255), 0, 32);
    permissions => json_schema!({
        "type": "object", "maxProperties": 32, "additionalProperties": {"type": "string", "enum": ["read", "write"]},
    });

    // HTTP.
    host_pattern => host();
    host_patterns => list(&host(), 1, 64);
    ports => list(&json_schema!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535}), 0, 16);
    methods => list(&text("^[A-Z][A-Z-]*$", 20), 0, 16);
    paths => list(&ruled(512, &[
        ("self.startsWith('/') && !self.contains('//') && !self.contains('/../') && !self.contains('/./') && !self.contains('?') && !self.contains('#') && !self.contains('%') && !self.endsWith('/..') && !self.endsWith('/.')", "a path begins with '/' and has no '//', '.', '..', '%', '?' or '#'"),
    ]), 0, 64);
    networks => list(&ruled(43, &[("isCIDR(self)", "write a network such as 10.0.0.0/8")]), 0, 16);
    header_name => text(TOKEN, 64);
    header_forms => list(&ruled(64, &[
        ("self.contains('{}') && !self.matches('.*\\\\{\\\\}.*\\\\{\\\\}.*')", "a form has '{}' once, where the credential stands"),
    ]), 0, 8);
    scopes => list(&text("^[!#-\\[\\]-~]+$", 128), 0, 32);
    services => list(&text(DNS_LABEL, 63), 1, 32);

    // Secrets.
    secret_key => text("^[-._a-zA-Z0-9]+$", 253);
    secret_keys => list(&text(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9*]+$", 507), 0, 64);
    stub_prefix => text("^[A-Za-z0-9_-]+$", 32);
    ids => list(&json_schema!({"type": "integer", "format": "int64", "minimum": 1}), 0, 64);
    gateways => list(&text(DNS_NAME, 253), 0, 16);
    client_ids => list(&json_schema!({"type": "string", "minLength": 1, "maxLength": 256}), 0, 64);
}

fn host() -> Schema {
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 253, "pattern": HOST_PATTERN,
        "x-kubernetes-validations": rules(&[
            ("!self.matches('^[0-9.]+$')", "name a host; an address can't be verified"),
            ("!self.startsWith('*.') || self.substring(2).contains('.')", "a wildcard needs at least two labels after it"),
        ]),
    })
}

fn url_schema(pattern: &str, message: &str) -> Schema {
    let rule = format!("self.matches('{pattern}') && !self.matches('[\\\\x00-\\\\x20\\\\x7f]')");
    ruled(2048, &[(&rule, &format!("write {message}"))])
}
