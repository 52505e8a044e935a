//! Pure: which bindings are a session's, and what a policy wants of the session itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_crds::{AgentSession, Confinement, CredentialBinding, Require, SessionDelivery, Subjects, label};
use kube::ResourceExt;

use super::decide::SessionFacts;

/// The bindings that select a session and whose credential it lists.
pub fn listed<'a>(bindings: &[&'a Arc<CredentialBinding>], session: &AgentSession) -> Vec<&'a Arc<CredentialBinding>> {
    let names: BTreeSet<&str> = session
        .spec
        .credentials
        .iter()
        .map(|credential| credential.name.as_str())
        .collect();
    let theirs = bindings.iter().filter(|binding| {
        names.contains(binding.spec.credential.name.as_str()) && selects(&binding.spec.subjects, session)
    });
    theirs.copied().collect()
}

/// Whether some session may be both's: certain only of names, and of selectors that ask for two values of one label.
pub fn may_meet(one: &Subjects, other: &Subjects) -> bool {
    let (names, others) = (&one.session_names, &other.session_names);
    if !names.is_empty() && !others.is_empty() {
        return names.iter().any(|name| others.contains(name));
    }
    let (Some(one), Some(other)) = (&one.session_selector, &other.session_selector) else {
        return true;
    };
    let differs =
        |(label, value): (&String, &String)| other.match_labels.get(label).is_some_and(|other| other != value);
    !one.match_labels.iter().any(differs)
}

/// Whether a session is as a policy wants it: a reviewed grant isn't inherited by whatever somebody makes by hand.
pub fn session_may(require: &Require, session: &SessionFacts) -> bool {
    let delivered = require.session_delivery != Some(SessionDelivery::Git) || session.from_git;
    let confined = require
        .min_confined
        .is_none_or(|least| strength(session.confinement) >= strength(least));
    let image = require.images.is_empty() || require.images.iter().any(|image| image_matches(image, &session.image));
    delivered && confined && image
}

fn strength(confinement: Confinement) -> u8 {
    match confinement {
        Confinement::None => 0,
        Confinement::NetworkPolicy => 1,
        Confinement::Fence => 2,
    }
}

/// A digest, or a prefix that ends where a part of the name does.
fn image_matches(allowed: &str, image: &str) -> bool {
    let rest = if allowed.starts_with("sha256:") {
        return image.ends_with(&format!("@{allowed}"));
    } else {
        image.strip_prefix(allowed)
    };
    rest.is_some_and(|rest| rest.is_empty() || allowed.ends_with('/') || rest.starts_with(['/', ':', '@']))
}

/// Whether a binding is meant for a session. Labels that an applier adds stand in no document, and select nothing.
pub fn selects(subjects: &Subjects, session: &AgentSession) -> bool {
    if subjects.all_sessions == Some(true) {
        return true;
    }
    if let Some(selector) = &subjects.session_selector {
        let mut declared = session.labels().clone();
        declared.retain(|key, _| !label::is_an_appliers(key));
        return selector.matches(&declared);
    }
    subjects.session_names.contains(&session.name_any())
}
