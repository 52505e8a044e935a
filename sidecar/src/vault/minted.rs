//! Tokens that the agent's own OAuth 2.0 flows gave: the agent holds their stubs, they are held here. They live as long
//! as the grant of the credential that they were asked for with, and are gone with the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_egress::tokens;
use secrecy::{ExposeSecret, SecretString};

use super::Value;
use crate::clock::Boottime;

/// The tokens of a session, by their stubs.
#[derive(Clone, Default)]
pub struct Minted(HashMap<String, Token>);

#[derive(Clone)]
struct Token {
    credential: Arc<str>,
    /// Fingerprint of the grant that it was minted under.
    grant: Arc<str>,
    secret: SecretString,
    until: Option<Boottime>,
}

/// A token that an answer holds.
#[derive(Debug)]
pub struct NewToken {
    /// Its value.
    pub secret: SecretString,
    /// How long it lasts, where that is said.
    pub lasts: Option<Duration>,
}

/// As many are held as may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the session holds {TOKENS_MAX} tokens already; those with an end make room when it comes")]
pub struct TooMany;

impl Minted {
    /// A stub for each token. One that is held already keeps its stub.
    pub(super) fn add(
        &mut self,
        (credential, stub): (&str, &str),
        grant: &Arc<str>,
        new: Vec<NewToken>,
        now: Boottime,
    ) -> Result<Vec<String>, TooMany> {
        self.0.retain(|_, token| token.is_live(now));
        let mut stubs = Vec::new();
        for NewToken { secret, lasts } in new {
            let held = self.0.iter().find(|(_, held)| held.is(credential, &secret));
            let name = held.map_or_else(|| tokens::stub(stub, &letters()), |(name, _)| name.clone());
            let token = Token {
                credential: Arc::from(credential),
                grant: Arc::clone(grant),
                secret,
                until: lasts.map(|lasts| now.after(lasts)),
            };
            self.0.insert(name.clone(), token);
            stubs.push(name);
        }
        if self.0.len() > TOKENS_MAX {
            return Err(TooMany);
        }
        Ok(stubs)
    }

    /// The token of a credential that a stub stands for.
    pub(super) fn get(&self, stub: &str, credential: &str, now: Boottime) -> Option<&SecretString> {
        let token = self.0.get(stub)?;
        (*token.credential == *credential && token.is_live(now)).then_some(&token.secret)
    }

    /// Those whose credential is granted as it was.
    pub(super) fn under(&self, values: &HashMap<String, Value>) -> Self {
        let stays = |token: &Token| {
            values
                .get(&*token.credential)
                .is_some_and(|value| value.grant == token.grant)
        };
        let stay = self.0.iter().filter(|(_, token)| stays(token));
        Self(stay.map(|(stub, token)| (stub.clone(), token.clone())).collect())
    }

    /// Name of the credential, value and stub of each.
    pub(super) fn secrets(&self) -> impl Iterator<Item = (&str, &[u8], &str)> {
        self.0.iter().map(|(stub, token)| {
            (
                &*token.credential,
                token.secret.expose_secret().as_bytes(),
                stub.as_str(),
            )
        })
    }
}

impl Token {
    fn is_live(&self, now: Boottime) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    fn is(&self, credential: &str, secret: &SecretString) -> bool {
        *self.credential == *credential && self.secret.expose_secret() == secret.expose_secret()
    }
}

fn letters() -> String {
    let random: [u8; tokens::LETTERS] = rand::random();
    let letters = random
        .iter()
        .filter_map(|byte| tokens::ALPHABET.get(usize::from(byte & 31)));
    letters.map(|letter| char::from(*letter)).collect()
}

/// A day of hourly tokens with rotating refresh tokens, several times over.
const TOKENS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::super::Holder;
    use super::*;

    const STUB: &str = "stub_fake_client_0123456789abcdef";

    fn new(secret: &str, lasts: Option<u64>) -> Vec<NewToken> {
        vec![NewToken {
            secret: SecretString::from(secret),
            lasts: lasts.map(Duration::from_secs),
        }]
    }

    fn add(minted: &mut Minted, secret: &str, lasts: Option<u64>, now: Boottime) -> Result<String, TooMany> {
        let added = minted.add(("CLIENT", STUB), &Arc::from("grant"), new(secret, lasts), now);
        added.map(|mut stubs| stubs.remove(0))
    }

    #[test]
    fn a_token_is_of_one_credential_and_ends() {
        let (mut minted, now) = (Minted::default(), Boottime::now());
        let stub = add(&mut minted, "fake-token-1", Some(60), now).unwrap();
        assert!(tokens::is_stub_of(&stub, STUB));
        let at = |credential: &str, second: u64| {
            let then = now.after(Duration::from_secs(second));
            minted.get(&stub, credential, then).is_some()
        };
        assert!(at("CLIENT", 59) && !at("CLIENT", 60) && !at("OTHER", 0));
    }

    #[test]
    fn the_same_token_keeps_its_stub_and_another_has_its_own() {
        let (mut minted, now) = (Minted::default(), Boottime::now());
        let first = add(&mut minted, "fake-token-1", None, now).unwrap();
        assert_eq!(add(&mut minted, "fake-token-1", None, now).unwrap(), first);
        assert_ne!(add(&mut minted, "fake-token-2", None, now).unwrap(), first);
    }

    #[test]
    fn there_are_only_so_many_and_those_that_ended_make_room() {
        let (mut minted, now) = (Minted::default(), Boottime::now());
        for number in 0..TOKENS_MAX {
            add(&mut minted, &format!("fake-token-{number}"), Some(60), now).unwrap();
        }
        assert_eq!(add(&mut minted.clone(), "fake-token-more", None, now), Err(TooMany));
        let later = now.after(Duration::from_secs(61));
        assert!(add(&mut minted, "fake-token-more", None, later).is_ok());
    }

    #[test]
    fn a_token_goes_with_the_grant_that_it_was_minted_under() {
        let (mut minted, now) = (Minted::default(), Boottime::now());
        let stub = add(&mut minted, "fake-token-1", None, now).unwrap();
        let values = |grant: &str| {
            let value = Value {
                secret: SecretString::from("fake-client-secret"),
                holder: Holder::default(),
                grant: Arc::from(grant),
                until: None,
            };
            HashMap::from([("CLIENT".to_owned(), value)])
        };
        let held = |values: &HashMap<String, Value>| minted.under(values).get(&stub, "CLIENT", now).is_some();
        assert!(held(&values("grant")) && !held(&values("another")) && !held(&HashMap::new()));
    }
}
