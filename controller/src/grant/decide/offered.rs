//! Pure: what a binding's source and routes need of Secrets, URLs and certificates.

use berth_crds::{CredentialBinding, CredentialSource, KeyRef, Reason, Route};
use berth_outbound::identity::Roots;

use super::{Facts, Offered, Refused, Verdict, refused, waits};
use crate::gateway::config::Gateway;
use crate::grant::oauth2::Endpoints;
use crate::grant::permit::host_covers;

/// The keys of Secrets that a value comes from, or is minted by.
pub fn keys_of(source: &CredentialSource) -> Vec<&KeyRef> {
    let app = source.github_app.as_ref().map(|app| &app.private_key_ref);
    let client = source.oauth2.as_ref();
    let secret = client.and_then(|client| client.client_secret_ref.as_ref());
    let refresh = client.and_then(|client| client.refresh_token_ref.as_ref());
    let aws = source.aws_sig_v4.as_ref();
    let parts = aws.map(|aws| {
        [
            Some(&aws.access_key_ref),
            Some(&aws.secret_key_ref),
            aws.session_token_ref.as_ref(),
        ]
    });
    [source.secret_ref.as_ref(), app, secret, refresh]
        .into_iter()
        .chain(parts.into_iter().flatten())
        .flatten()
        .collect()
}

/// What the owner of a key's Secret offers.
pub(super) fn offered<'a>(facts: &Facts<'a>, key: &KeyRef) -> Result<&'a Offered, Verdict> {
    match facts.secrets.get(&format!("{}/{}", key.name, key.key)) {
        Some(Ok(offered)) => Ok(offered),
        Some(Err(Refused { reason, message })) => Err(refused(*reason, message.clone())),
        None => Err(waits(Reason::Progressing, format!("Secret {} is being read", key.name))),
    }
}

/// Which Secret isn't offered to a host; a token that several were needed for goes where all of them may.
pub(super) fn not_offered(offers: &[(&KeyRef, &Offered)], host: &str) -> Option<String> {
    let covers = |offered: &Offered| offered.hosts.iter().any(|offered| host_covers(offered, host));
    let (key, _) = offers.iter().find(|(_, offered)| !covers(offered))?;
    Some(format!("Secret {} isn't offered to {host}", key.name))
}

/// The gateway that a binding's key is of; `None` for another source.
pub(super) fn gateway<'a>(facts: &Facts<'a>, binding: &CredentialBinding) -> Result<Option<&'a Gateway>, Verdict> {
    let Some(source) = &binding.spec.credential.source.lite_llm_key else {
        return Ok(None);
    };
    let unknown = || {
        let name = &source.gateway;
        let message =
            format!("the install has no gateway {name}: its platform team names them in chart value gateways");
        refused(Reason::GatewayUnknown, message)
    };
    facts.gateways.named(&source.gateway).map(Some).ok_or_else(unknown)
}

/// A key is worth something at its gateway alone, and is sent nowhere else.
pub(super) fn not_the_gateway(gateway: &Gateway, route: &Route) -> Option<String> {
    let (host, port) = gateway.place()?;
    let ports = if route.ports.is_empty() {
        &[443][..]
    } else {
        &route.ports
    };
    if route.host == host && ports.iter().all(|named| *named == i32::from(port)) {
        return None;
    }
    let name = &gateway.name;
    Some(format!(
        "gateway {name} is {host}, port {port}; route {} leads elsewhere",
        route.name
    ))
}

/// Where a Secret is sent to for a token, or signs what is sent: its owner has to offer it to those hosts as well.
pub(super) fn check_minting_hosts(
    facts: &Facts<'_>,
    binding: &CredentialBinding,
    offers: &[(&KeyRef, &Offered)],
) -> Result<(), Verdict> {
    let source = &binding.spec.credential.source;
    let mut hosts: Vec<String> = Vec::new();
    hosts.extend(source.github_app.iter().map(|_| facts.github_host.to_owned()));
    if let Some(client) = &source.oauth2 {
        let endpoints = Endpoints::of(client).map_err(|(field, error)| {
            let field = format!("spec.credential.source.oauth2.{field}");
            refused(Reason::InvalidSpec, format!("{field}: {error}"))
        })?;
        hosts.extend(endpoints.hosts());
    }
    let refusal = hosts.iter().find_map(|host| not_offered(offers, host));
    refusal.map_or(Ok(()), |message| {
        Err(refused(
            Reason::HostNotOffered,
            format!("{message}, where its token comes from"),
        ))
    })
}

/// A route whose certificates can't be read would be left out by every sidecar.
pub(super) fn check_certificates(binding: &CredentialBinding) -> Result<(), Verdict> {
    for route in &binding.spec.routes {
        if let Some(Err(error)) = route.ca.as_ref().map(|ca| Roots::parse(ca.as_bytes())) {
            let message = format!("spec.routes: ca of {} {error}", route.name);
            return Err(refused(Reason::InvalidSpec, message));
        }
    }
    Ok(())
}
