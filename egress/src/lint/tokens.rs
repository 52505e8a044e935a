//! Routes of OAuth 2.0 flows that agents run themselves (row 36).

use super::{Report, Rule};
use crate::policy::{Injection, Route, Tokens};
use crate::rules::route::CompiledRoute;

type Item<'a> = (usize, &'a Route, &'a CompiledRoute);

pub(super) fn check(routes: &[Item<'_>], report: &mut Report) {
    let endpoints: Vec<&Option<String>> = (routes.iter())
        .filter(|(_, route, _)| route.tokens == Some(Tokens::Endpoint))
        .map(|(_, route, _)| &route.credential)
        .collect();
    for (index, route, compiled) in routes {
        let Some(tokens) = route.tokens else { continue };
        let mut add = |message: &str| report.route(*index).add("tokens", Rule::Tokens, message);
        if route.credential.is_none() {
            add("tokens belong to the credential that they are asked for with; name it");
            continue;
        }
        if !compiled.redact {
            add("tokens are told from other text by redaction; it must be on");
        }
        if route.git.is_some() || route.websocket {
            add("neither git nor WebSocket goes with tokens");
        }
        if tokens == Tokens::Minted {
            if matches!(route.inject, Some(Injection::Body(_) | Injection::ClientCertificate(_))) {
                add("a token that was given stands in a header, in Basic or in the query");
            }
            if !endpoints.contains(&&route.credential) {
                add("no route of this credential says tokens: Endpoint, so there are none");
            }
        }
    }
}
