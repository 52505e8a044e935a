//! Routes that sign for AWS, and the credentials that they sign with (row 67).

use super::{RouteReport, Rule};
use crate::aws::region_of;
use crate::pattern::HostPattern;
use crate::policy::{AwsInjection, Credential, Injection, Route};
use crate::rules::route::{AwsRule, SurfaceRule};

/// Region and services of a route, complete.
pub(super) fn surface(report: &mut RouteReport<'_>, route: &Route, injection: &AwsInjection) -> Option<SurfaceRule> {
    let services = &injection.services;
    if services.is_empty() || !services.iter().all(|service| is_label(service)) {
        let message = "name the services as their signatures do, such as s3 or dynamodb";
        report.add("inject.awsSigV4.services", Rule::Signature, message);
    }
    if let Some(service) = services.iter().find(|service| MINTING.contains(&service.as_str()))
        && !route.minting
    {
        let message = format!("service {service} hands out credentials; leave it out, or say minting: true");
        report.add("inject.awsSigV4.services", Rule::Minting, message);
    }
    Some(SurfaceRule::AwsSigV4(AwsRule {
        region: region(report, route, injection)?,
        services: services.clone(),
        presigned: injection.presigned,
    }))
}

/// As the route says, else as its host does; never two.
fn region(report: &mut RouteReport<'_>, route: &Route, injection: &AwsInjection) -> Option<String> {
    let named = match HostPattern::parse(&route.host) {
        Ok(HostPattern::Exact(host)) => host.name().and_then(region_of).map(str::to_owned),
        Ok(HostPattern::OneLabel(base) | HostPattern::AnyDepth(base)) => {
            region_of(&format!("any.{base}")).map(str::to_owned)
        }
        Err(_) => return None, // told of the host
    };
    let message = match (&injection.region, named) {
        (Some(said), Some(named)) if *said != named => format!("the host is of region {named}, the route says {said}"),
        (Some(said), _) if !is_label(said) => "a region is letters, digits and '-', such as eu-west-1".to_owned(),
        (Some(said), _) => return Some(said.clone()),
        (None, Some(named)) => return Some(named),
        (None, None) => format!("{} names no region; say which", route.host),
    };
    report.add("inject.awsSigV4.region", Rule::Signature, message);
    None
}

/// A key to sign with goes into signatures, and nothing else does.
pub(super) fn check_credential(report: &mut RouteReport<'_>, injection: &Injection, credential: &Credential) {
    let signs = matches!(injection, Injection::AwsSigV4(_));
    let message = match (signs, credential.secret_stub.is_some()) {
        (true, true) | (false, false) => return,
        (true, false) => format!(
            "credential {} has no secretStub, which the agent signs with",
            credential.name
        ),
        (false, true) => format!(
            "credential {} is an AWS key, which is only ever signed with",
            credential.name
        ),
    };
    report.add("inject", Rule::Signature, message);
}

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}

/// Services whose answers are credentials, wherever they are reached: roles and keys, tokens of registries, sessions
/// of S3 Express.
const MINTING: [&str; 10] = [
    "codeartifact",
    "cognito-identity",
    "ecr",
    "ecr-public",
    "iam",
    "redshift-serverless",
    "rolesanywhere",
    "s3express",
    "sso",
    "sts",
];
