//! A sidecar's bearer token → the pod that it was minted for.
//!
//! Only a token of audience `berth`, bound to a live pod, says anything: TokenReview checks signature, audience,
//! expiry and that the pod still exists. Nothing is cached: one review per stream and per fresh token.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use berth_protocol::AUDIENCE;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::{Api, PostParams};
use kube::{Client, api::ObjectMeta};

/// The pod that a token was minted for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodIdentity {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// When the token expires; the stream needs a fresh one before.
    pub expires: Timestamp,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The API server couldn't be asked.
    #[error("failed to review the token")]
    Review(#[source] Box<kube::Error>),
    /// It was asked, and the token doesn't name a pod of ours.
    #[error("the token is refused: {0}")]
    Refused(String),
}

/// Asks the API server whose token it is.
pub async fn review(client: &Client, token: &str) -> Result<PodIdentity, TokenError> {
    let review = TokenReview {
        metadata: ObjectMeta::default(),
        spec: TokenReviewSpec {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            token: Some(token.to_owned()),
        },
        status: None,
    };
    let api: Api<TokenReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await;
    let status = answer
        .map_err(|error| TokenError::Review(Box::new(error)))?
        .status
        .unwrap_or_default();
    let audiences = status.audiences.unwrap_or_default();
    if status.authenticated != Some(true) || !audiences.iter().any(|audience| audience == AUDIENCE) {
        let why = status
            .error
            .unwrap_or_else(|| format!("not a valid token of audience {AUDIENCE}"));
        return Err(TokenError::Refused(why));
    }
    let expires = expiry(token).ok_or_else(|| TokenError::Refused("it has no expiry".to_owned()))?;
    identity(&status.user.unwrap_or_default(), expires).map_err(TokenError::Refused)
}

/// The pod in the reviewed user: the account's namespace and the bound pod's name and UID.
fn identity(user: &UserInfo, expires: Timestamp) -> Result<PodIdentity, String> {
    let name = user.username.as_deref().unwrap_or_default();
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    let Some((namespace, _)) = account else {
        return Err(format!("{name} is no ServiceAccount"));
    };
    let extra = |key: &str| {
        let values = user.extra.as_ref()?.get(key)?;
        values
            .first()
            .filter(|value| values.len() == 1 && !value.is_empty())
            .cloned()
    };
    let pod = extra("authentication.kubernetes.io/pod-name").zip(extra("authentication.kubernetes.io/pod-uid"));
    let Some((name, uid)) = pod else {
        return Err("it isn't bound to a pod".to_owned());
    };
    Ok(PodIdentity {
        namespace: namespace.to_owned(),
        name,
        uid,
        expires,
    })
}

/// `exp` of a token that the API server has verified.
fn expiry(token: &str) -> Option<Timestamp> {
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    Timestamp::from_second(claims.get("exp")?.as_i64()?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn user(name: &str, extra: &[(&str, &[&str])]) -> UserInfo {
        let extra: BTreeMap<String, Vec<String>> = extra
            .iter()
            .map(|(key, values)| {
                (
                    (*key).to_owned(),
                    values.iter().map(|value| (*value).to_owned()).collect(),
                )
            })
            .collect();
        UserInfo {
            username: Some(name.to_owned()),
            extra: Some(extra),
            ..UserInfo::default()
        }
    }

    const POD: &[(&str, &[&str])] = &[
        ("authentication.kubernetes.io/pod-name", &["p"]),
        ("authentication.kubernetes.io/pod-uid", &["u"]),
    ];

    #[test]
    fn a_bound_token_names_its_pod() {
        let found = identity(
            &user("system:serviceaccount:team:berth-agent", POD),
            Timestamp::UNIX_EPOCH,
        );
        let expected = PodIdentity {
            namespace: "team".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            expires: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn a_person_a_node_and_an_unbound_account_are_refused() {
        for (name, extra) in [
            ("alice", POD),
            ("system:node:n1", POD),
            ("system:serviceaccount:team:x", &[][..]),
            (
                "system:serviceaccount:team:x",
                &[("authentication.kubernetes.io/pod-name", &["p"][..])][..],
            ),
            (
                "system:serviceaccount:team:x",
                &[POD[0], ("authentication.kubernetes.io/pod-uid", &["u", "v"][..])][..],
            ),
        ] {
            assert!(identity(&user(name, extra), Timestamp::UNIX_EPOCH).is_err(), "{name}");
        }
    }

    #[test]
    fn expiry_is_read_from_the_payload() {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp":1700000000}"#);
        assert_eq!(
            expiry(&format!("h.{payload}.s")),
            Timestamp::from_second(1_700_000_000).ok()
        );
        assert_eq!(expiry("nonsense"), None);
    }
}
