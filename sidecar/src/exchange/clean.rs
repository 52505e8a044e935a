//! An answer, as the agent may see it.

use http::{Response, Version};
use http_body_util::BodyExt;

use super::headers;
use super::metered;
use super::watch::{Sent, Watched};
use super::{Plan, Standing};
use crate::audit::{Ended, Ticket};
use crate::body::Body;
use crate::redact::{self, Policy, Redacted, coding::Limits};
use crate::refusal::Refusal;

/// Takes what is for one leg and what is secret out of an answer, and watches the rest.
pub fn clean(
    mut response: Response<Body>,
    plan: &Plan<'_>,
    mut ticket: Option<Ticket>,
    sent: Sent,
) -> Result<Response<Body>, Refusal> {
    headers::for_agent(response.headers_mut());
    *response.version_mut() = Version::HTTP_11; // of this leg; HTTP/2 has its own way to say so
    response.extensions_mut().clear(); // a reason phrase is text from upstream
    if let Some(ticket) = &mut ticket {
        ticket.outcome.status = response.status().as_u16();
        if let Some(reserved) = &mut ticket.reserved {
            metered::answered(reserved, &response);
        }
    }
    let Standing { cuts, .. } = &plan.standing;
    let Some(patterns) = plan.patterns() else {
        return Ok(match (ticket, cuts.is_empty()) {
            (None, true) => response,
            (ticket, _) => response.map(|body| Watched::new(body, |_| 0, sent, cuts, ticket).boxed_unsync()),
        });
    };
    let policy = Policy {
        set_cookie: plan.judged.allowed.set_cookie,
    };
    match redact::response(response, &patterns, Limits::default(), policy) {
        Ok((response, count)) => {
            if let Some(ticket) = &mut ticket {
                ticket.outcome.redactions = count;
            }
            Ok(response.map(|body| Watched::new(body, Redacted::count, sent, cuts, ticket).boxed_unsync()))
        }
        Err(refused) => {
            if let Some(ticket) = &mut ticket {
                ticket.outcome.ended = Ended::Refused;
            }
            Err(Refusal::upstream(crate::chain(&refused)))
        }
    }
}
