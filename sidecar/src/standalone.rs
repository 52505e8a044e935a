//! The sidecar without Kubernetes: a policy file in place of the controller, for a CI job or a developer's machine. Access
//! tokens that the policy has a client for are asked for here ([`tokens`]).

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_egress::authority::Authority;
use berth_egress::decide::Request;
use berth_egress::path::Target;
use berth_egress::policy::{AwsSource, Credential, Kept, Policy, Source};
use berth_egress::rules::Rules;
use berth_egress::{legacy, lint};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use crate::audit::Audit;
use crate::audit::sink::Sink;
use crate::cli::{Explained, Standalone};
use crate::files::Changes;
use crate::git::protected::Protected;
use crate::harden::harden;
use crate::proxy::Proxy;
use crate::run::{self, RunError, Serving};
use crate::vault::{Holder, Offer, Problem, Value};

use self::tokens::Tokens;

pub mod tokens;

/// A policy that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It isn't a policy.
    #[error("{path}: {message}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What, and where.
        message: String,
    },
    /// It breaks rules; all of them are listed.
    #[error("the policy is refused:\n{0}")]
    Lint(String),
    /// A value is missing.
    #[error("credential {credential}: {message}")]
    Value {
        /// Which.
        credential: String,
        /// Why.
        message: String,
    },
    /// A certificate in it, or one that a value is.
    #[error("the policy is refused: {0}")]
    Certificate(Problem),
    /// The request on the command line.
    #[error("{0}")]
    Request(String),
    /// The variables of the old product.
    #[error("{0}")]
    Legacy(String),
    /// The sidecar itself.
    #[error(transparent)]
    Run(#[from] Box<RunError>),
}

/// Serves until SIGTERM or Ctrl-C.
pub fn serve(options: Standalone) -> Result<(), PolicyError> {
    harden().map_err(|error| Box::new(RunError::Start(error)))?;
    let runtime = run::runtime().map_err(Box::new)?;
    runtime.block_on(async {
        let failed = |error| Box::new(RunError::Start(error));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        tokio::select! {
            ended = serve_policy(options) => ended,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })
}

async fn serve_policy(options: Standalone) -> Result<(), PolicyError> {
    let (mut serving, proxy, tokens) = begin(&options).await?;
    tracing::info!(address = %serving.proxy_address, "the proxy listens");
    let ended = tokio::select! {
        Some(ended) = serving.parts.join_next() => ended.unwrap_or(Err(RunError::Ended)),
        () = follow(options.policy, proxy, tokens) => Ok(()),
    };
    ended.map_err(|error| PolicyError::Run(Box::new(error)))
}

/// Reads the policy and begins to serve.
pub async fn start(options: &Standalone) -> Result<(Serving, Arc<Proxy>), PolicyError> {
    let (serving, proxy, _tokens) = begin(options).await?;
    Ok((serving, proxy))
}

async fn begin(options: &Standalone) -> Result<(Serving, Arc<Proxy>, Tokens), PolicyError> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default()); // set before: the same one
    let offer = match &options.policy {
        Some(path) => load(path)?,
        None => from_environment()?,
    };
    for directory in [&options.place.handoff, &options.place.state] {
        std::fs::create_dir_all(directory).map_err(|source| PolicyError::Read {
            path: directory.clone(),
            source,
        })?;
    }
    let sink = Sink::lines(&options.audit).map_err(|source| PolicyError::Read {
        path: options.audit.clone(),
        source,
    })?;
    let proxy = Arc::new(run::build(&options.place, Arc::new(Audit::new(sink))).map_err(Box::new)?);
    let mut tokens = Tokens::new(proxy.upstream.dialer().clone());
    let base = options.policy.as_deref().and_then(Path::parent);
    tokens.ask(&offer.policy, base.unwrap_or_else(|| Path::new("."))).await;
    adopt(&proxy, tokens.filled(offer));
    let serving = run::serve(&options.place, &proxy).await.map_err(Box::new)?;
    Ok((serving, proxy, tokens))
}

/// Takes the policy again whenever it or a value may have changed. One that can't be used changes nothing but its log.
async fn follow(path: Option<PathBuf>, proxy: Arc<Proxy>, mut tokens: Tokens) {
    let Some(path) = path else {
        return std::future::pending().await;
    };
    let mut changes = Changes::of(&path, POLL);
    loop {
        tokio::select! {
            () = changes.next() => {}
            () = tokens.due() => {}
        }
        match load(&path) {
            Ok(offer) => {
                tokens
                    .ask(&offer.policy, path.parent().unwrap_or_else(|| Path::new(".")))
                    .await;
                adopt(&proxy, tokens.filled(offer));
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the policy isn't taken; the one before goes on"
            ),
        }
    }
}

/// From now on this holds.
pub fn adopt(proxy: &Proxy, offer: Offer) {
    for problem in proxy.adopt(offer) {
        tracing::error!(error = &problem as &dyn std::error::Error, "left out");
    }
}

/// Reads a policy and the values that it names.
pub fn load(path: &Path) -> Result<Offer, PolicyError> {
    offer(read(path)?, path.parent().unwrap_or_else(|| Path::new(".")))
}

fn offer(policy: Policy, base: &Path) -> Result<Offer, PolicyError> {
    strict(&policy)?;
    let mut values = HashMap::new();
    for credential in &policy.credentials {
        let Some(value) = value(credential, base)? else {
            continue;
        };
        lint::check_secret(&policy, credential, value.secret.expose_secret().as_bytes()).map_err(|problem| {
            PolicyError::Value {
                credential: credential.name.clone(),
                message: problem.to_string(),
            }
        })?;
        values.insert(credential.name.clone(), value);
    }
    let offer = Offer {
        policy,
        values,
        ..Offer::nothing()
    };
    offer.check_certificates().map_err(PolicyError::Certificate)?;
    Ok(offer)
}

/// Reads a policy; the values may be missing.
pub fn read(path: &Path) -> Result<Policy, PolicyError> {
    let text = std::fs::read_to_string(path).map_err(|source| PolicyError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

/// Reads a policy from text; the path is for errors.
pub fn parse(path: &Path, text: &str) -> Result<Policy, PolicyError> {
    serde_saphyr::from_str(text).map_err(|error| PolicyError::Parse {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// Refuses a policy that breaks any rule.
pub fn strict(policy: &Policy) -> Result<Rules, PolicyError> {
    for (index, git) in policy
        .routes
        .iter()
        .enumerate()
        .filter_map(|(index, route)| Some((index, route.git.as_ref()?)))
    {
        Protected::with(git.protect.iter().map(String::as_str))
            .map_err(|error| PolicyError::Lint(format!("  routes[{index}].git.protect: {error}\n")))?;
    }
    Rules::strict(policy.clone()).map_err(|findings| {
        let mut text = String::new();
        for finding in findings {
            let _ = writeln!(
                text,
                "  {}: {} ({})",
                finding.field,
                finding.message,
                finding.rule.as_str()
            );
        }
        PolicyError::Lint(text)
    })
}

/// None for a token that is asked for.
fn value(credential: &Credential, base: &Path) -> Result<Option<Value>, PolicyError> {
    let missing = |message: String| PolicyError::Value {
        credential: credential.name.clone(),
        message,
    };
    let plain = |secret| Some(forever(secret, Holder::None));
    match &credential.source {
        None => Err(missing(
            "it has no source: add source.file, source.env, source.aws or source.oauth2".to_owned(),
        )),
        Some(Source::File(path)) => file(&base.join(path)).map(plain).map_err(missing),
        Some(Source::Env(name)) => variable(name).map(plain).map_err(missing),
        Some(Source::OAuth2(client)) => tokens::check(client).map(|()| None).map_err(missing),
        Some(Source::Aws(aws)) => aws_key(aws, base).map(Some).map_err(missing),
    }
}

fn aws_key(aws: &AwsSource, base: &Path) -> Result<Value, String> {
    let read = |part: &Kept| match part {
        Kept::File(path) => file(&base.join(path)),
        Kept::Env(name) => variable(name),
    };
    let holder = Holder::Aws {
        access_key: read(&aws.access_key)?.expose_secret().to_owned(),
        session_token: aws.session_token.as_ref().map(read).transpose()?,
    };
    Ok(forever(read(&aws.secret_key)?, holder))
}

fn file(path: &Path) -> Result<SecretString, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = text
        .strip_suffix('\n')
        .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(SecretString::from(text))
}

fn variable(name: &str) -> Result<SecretString, String> {
    let value = environment(name).map(SecretString::from);
    value.ok_or_else(|| format!("the variable {name} isn't set"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "which variable holds a value is said by the policy, not by the program"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn forever(secret: SecretString, holder: Holder) -> Value {
    Value {
        secret,
        holder,
        grant: Arc::from("file"),
        until: None,
    }
}

/// `REAL_*`, `HOST_*` and `EGRESS_*`, as the LiteLLM Agent Platform had them.
fn from_environment() -> Result<Offer, PolicyError> {
    let variables: BTreeMap<String, String> = std::env::vars().collect();
    let stub = |key: &str| {
        // The same key has the same stub after a restart; the stub is worth nothing outside of this machine.
        let digest = Sha256::digest(["berth legacy", key].join("\0"));
        format!(
            "stub_{}_{}",
            key.to_ascii_lowercase(),
            hex::encode(digest.get(..16).unwrap_or_default())
        )
    };
    let policy = legacy::policy(&variables, stub).map_err(|error| PolicyError::Legacy(error.to_string()))?;
    offer(policy, Path::new("."))
}

/// The decision about a request, and why.
pub fn explain(explained: &Explained) -> Result<String, PolicyError> {
    let rules = strict(&read(&explained.policy)?)?;
    let wrong = |what: &str, error: &dyn std::fmt::Display| PolicyError::Request(format!("{what}: {error}"));
    let uri: Uri = explained.url.parse().map_err(|error| wrong(&explained.url, &error))?;
    let tls = uri.scheme_str() == Some("https");
    let named = uri.authority().map_or("", |authority| authority.as_str());
    let authority = Authority::from_host_header(named, if tls { 443 } else { 80 });
    let authority = authority.map_err(|error| wrong(named, &error))?;
    let method = Method::from_bytes(explained.method.as_bytes()).map_err(|error| wrong(&explained.method, &error))?;
    let raw = uri.path_and_query().map_or("/", |target| target.as_str());
    let target = Target::parse(raw).map_err(|error| wrong(raw, &error))?;
    let headers = headers(&explained.headers)?;
    let request = Request {
        authority: &authority,
        tls,
        method: &method,
        path: &target.path,
        query: target.query.as_ref(),
        headers: &headers,
        upgrade: None,
    };
    Ok(rules.explain(&request).to_string())
}

fn headers(lines: &[String]) -> Result<HeaderMap, PolicyError> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let wrong = || PolicyError::Request(format!("{line}: write Name: value"));
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_unreadable| wrong())?;
        headers.append(
            name,
            HeaderValue::try_from(value.trim()).map_err(|_unreadable| wrong())?,
        );
    }
    Ok(headers)
}

/// The environment of a program behind the proxy, as lines for a shell. Stubs are public.
pub fn stubs(policy: &Path, handoff: &Path, proxy: std::net::SocketAddr) -> Result<String, PolicyError> {
    let policy = read(policy)?;
    strict(&policy)?;
    let handoff = std::path::absolute(handoff).map_err(|source| PolicyError::Read {
        path: handoff.to_owned(),
        source,
    })?;
    let mut text = String::new();
    // Of two AWS keys the first is what SDKs find by themselves: the later value of a variable counts.
    let stubs = policy
        .credentials
        .iter()
        .rev()
        .flat_map(|credential| match &credential.secret_stub {
            Some(secret) => berth_protocol::environment::aws(&credential.name, &credential.stub, secret, proxy),
            None => vec![(credential.name.clone(), credential.stub.clone())],
        });
    let environment = berth_protocol::environment::of(&handoff.to_string_lossy(), proxy);
    for (name, value) in environment.into_iter().chain(stubs) {
        let _ = writeln!(text, "export {name}='{}'", value.replace('\'', r"'\''"));
    }
    Ok(text)
}

/// research/vault-proxy.md §4.4: subPath mounts never tell.
const POLL: Duration = Duration::from_secs(30);
