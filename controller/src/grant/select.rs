//! Pure: which bindings are a session's, and what a policy wants of the session itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_crds::{AgentSession, Confinement, CredentialBinding, Require, SessionDelivery, Subjects, label};
use kube::ResourceExt;

use super::decide::SessionFacts;

/// Bindings by the name of their credential: a session's are found without a look at all of them.
pub struct Index<'a> {
    bindings: Vec<&'a Arc<CredentialBinding>>,
    by_credential: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Index<'a> {
    /// Of these bindings, whose order is kept.
    pub fn of(bindings: impl IntoIterator<Item = &'a Arc<CredentialBinding>>) -> Self {
        let bindings: Vec<&Arc<CredentialBinding>> = bindings.into_iter().collect();
        let mut by_credential: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, binding) in bindings.iter().enumerate() {
            let name = binding.spec.credential.name.as_str();
            by_credential.entry(name).or_default().push(at);
        }
        Self {
            bindings,
            by_credential,
        }
    }

    /// Those that select a session and whose credential it lists.
    pub fn listed(&self, session: &AgentSession) -> Vec<&'a Arc<CredentialBinding>> {
        let listed = session.spec.credentials.iter();
        let mut found: Vec<usize> = listed
            .filter_map(|credential| self.by_credential.get(credential.name.as_str()))
            .flatten()
            .copied()
            .filter(|at| selects(&self.bindings[*at].spec.subjects, session))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|at| self.bindings[at]).collect()
    }
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
