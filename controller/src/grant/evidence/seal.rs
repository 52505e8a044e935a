//! Pure: the seal of a verdict in `status.grant`: HMAC by the install's key over all of it and the binding's UID. A
//! status that somebody else wrote, or that was copied from another binding, grants nothing.

use berth_crds::{Grant, GrantRepository};

use crate::grant::fingerprint::Fingerprint;
use crate::grant::offer::InstallKey;
use crate::grant::tip::Standing;

/// The seal of a grant of the binding with this UID.
pub fn seal(key: &InstallKey, uid: &str, grant: &Grant) -> String {
    hex::encode(key.derive(&[PURPOSE, uid, &sealed(grant)]))
}

/// Whether a grant is as this install sealed it for that binding.
pub fn holds(key: &InstallKey, uid: &str, grant: &Grant) -> bool {
    let seal = grant.seal.as_ref().and_then(|seal| hex::decode(seal).ok());
    seal.is_some_and(|seal| key.confirms(&[PURPOSE, uid, &sealed(grant)], &seal))
}

/// Whether what was sealed speaks of what stands in the tip now: from the same commit of the same branch, and no wider.
pub fn speaks_of(grant: &Grant, standing: &Standing, fingerprint: &Fingerprint) -> bool {
    let commit = standing.introduced.as_ref().map(|introduced| &introduced.commit);
    let elements = grant.elements.iter().cloned().collect();
    let same = |repository: &GrantRepository| repository.url == standing.url && repository.branch == standing.branch;
    commit.is_some()
        && grant.commit.as_ref() == commit
        && grant.repository.as_ref().is_some_and(same)
        && fingerprint.is_within(&elements, grant.expires_at.as_ref().map(|time| time.0))
}

/// Everything but the seal, written one way.
fn sealed(grant: &Grant) -> String {
    let unsealed = Grant {
        seal: None,
        ..grant.clone()
    };
    serde_json::to_string(&unsealed).unwrap_or_default()
}

const PURPOSE: &str = "seal";

#[cfg(test)]
mod tests {
    use berth_crds::{Approval, Evidence};
    use jiff::Timestamp;

    use super::*;
    use crate::session::plan::time;

    fn grant() -> Grant {
        Grant {
            fingerprint: "f".to_owned(),
            elements: vec!["e".to_owned()],
            commit: Some("c0ffee".to_owned()),
            approvers: vec![Approval {
                user: "bob".to_owned(),
                ..Approval::default()
            }],
            evidence: vec![Evidence::Branch, Evidence::Reviewed],
            granted_at: Some(time(Timestamp::from_nanosecond(1_790_000_000_123_456_789).unwrap())),
            ..Grant::default()
        }
    }

    fn key() -> InstallKey {
        InstallKey::new(vec![7; 32])
    }

    #[test]
    fn a_seal_holds_after_the_api_server_has_had_it() {
        let mut ours = grant();
        ours.seal = Some(seal(&key(), "uid", &ours));
        let text = serde_json::to_string(&ours).unwrap();
        let read: Grant = serde_json::from_str(&text).unwrap();
        assert!(holds(&key(), "uid", &read));
    }

    #[test]
    fn anything_that_was_changed_breaks_it() {
        let mut ours = grant();
        ours.seal = Some(seal(&key(), "uid", &ours));
        let tampering: [fn(&mut Grant); 7] = [
            |grant| grant.seal = None,
            |grant| grant.seal = Some(String::new()),
            |grant| grant.elements.push("more".to_owned()),
            |grant| grant.commit = Some("other".to_owned()),
            |grant| {
                grant.approvers.push(Approval {
                    user: "eve".to_owned(),
                    ..Approval::default()
                });
            },
            |grant| grant.evidence.push(Evidence::Signed),
            |grant| grant.granted_at = None,
        ];
        for (number, change) in tampering.iter().enumerate() {
            let mut patched = ours.clone();
            change(&mut patched);
            assert!(!holds(&key(), "uid", &patched), "{number}");
        }
        assert!(!holds(&key(), "another uid", &ours), "it was copied");
        assert!(
            !holds(&InstallKey::new(vec![8; 32]), "uid", &ours),
            "by another install"
        );
    }
}
