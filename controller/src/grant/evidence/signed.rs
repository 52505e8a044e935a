//! Pure: whether a person's key signed the author's commit. SSH signatures (OpenSSH's PROTOCOL.sshsig) in namespace
//! `git`, by ed25519, ecdsa and rsa keys; keys in hardware (`sk-…`), OpenPGP and X.509 prove nobody in this release.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_crds::Reason;
use jiff::Timestamp;
use ssh_key::public::{EcdsaPublicKey, KeyData};
use ssh_key::{Algorithm, HashAlg, Mpint, SshSig};

use super::signers::{Signers, Unknown};
use crate::git::introduced::Authored;
use crate::grant::decide::Refused;

/// Whose key signed a commit. `verified` is when Berth looks at it, or first did: a key that has ended signs nothing
/// new, whatever date a commit has.
pub fn signer(authored: &Authored, signers: &Signers, verified: Timestamp) -> Result<String, Refused> {
    let commit = authored.commit.get(..12).unwrap_or(&authored.commit);
    let unsigned = |why: &str| Refused {
        reason: Reason::Unsigned,
        message: format!("commit {commit} {why}; a GrantPolicy wants the author's commit signed by a person's key"),
    };
    let Some(signature) = &authored.signature else {
        return Err(unsigned("isn't signed"));
    };
    let parsed = SshSig::from_pem(signature.armored.trim());
    let Ok(parsed) = parsed else {
        return Err(unsigned("isn't signed with SSH"));
    };
    if parsed.namespace() != NAMESPACE {
        return Err(unsigned("has a signature that was made for something else than git"));
    }
    let at = Timestamp::from_second(authored.at).map_err(|_overflow| unsigned("has an impossible date"))?;
    let who = signers
        .whose(parsed.public_key(), NAMESPACE, &[at, verified])
        .map_err(|why| {
            unsigned(match why {
                Unknown::Key => "is signed by a key that isn't among the install's signing keys",
                Unknown::Machine => "is signed by a forge, which proves no person",
                Unknown::Namespace => "is signed by a key that doesn't count for git",
                Unknown::Time => "is signed by a key outside the time that it counts for",
            })
        })?;
    let payload = STANDARD.decode(&signature.payload).unwrap_or_default();
    let signed = SshSig::signed_data(NAMESPACE, parsed.hash_alg(), &payload);
    let verified = signed.is_ok_and(|signed| verifies(&parsed, &signed));
    if verified {
        Ok(who.to_owned())
    } else {
        Err(unsigned("has a signature that doesn't verify"))
    }
}

fn verifies(signature: &SshSig, signed: &[u8]) -> bool {
    let (algorithm, bytes) = (signature.signature().algorithm(), signature.signature().as_bytes());
    match (signature.public_key(), algorithm) {
        (KeyData::Ed25519(key), Algorithm::Ed25519) => check(&ED25519, key.as_ref(), signed, bytes),
        (KeyData::Ecdsa(key), Algorithm::Ecdsa { .. }) => {
            let (with, length): (&dyn VerificationAlgorithm, usize) = match key {
                EcdsaPublicKey::NistP256(_) => (&ECDSA_P256_SHA256_FIXED, 32),
                EcdsaPublicKey::NistP384(_) => (&ECDSA_P384_SHA384_FIXED, 48),
                EcdsaPublicKey::NistP521(_) => (&ECDSA_P521_SHA512_FIXED, 66),
            };
            let fixed = fixed(bytes, length);
            fixed.is_some_and(|fixed| check(with, key.as_sec1_bytes(), signed, &fixed))
        }
        // RFC 8332; SHA-1 is no longer one.
        (KeyData::Rsa(key), Algorithm::Rsa { hash: Some(hash) }) => {
            let (Some(n), Some(e)) = (key.n.as_positive_bytes(), key.e.as_positive_bytes()) else {
                return false;
            };
            let key = RsaPublicKeyComponents { n, e };
            match hash {
                HashAlg::Sha256 => key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, bytes).is_ok(),
                HashAlg::Sha512 => key.verify(&RSA_PKCS1_2048_8192_SHA512, signed, bytes).is_ok(),
                _ => false,
            }
        }
        _ => false,
    }
}

fn check(with: &'static dyn VerificationAlgorithm, key: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(with, key).verify(signed, signature).is_ok()
}

/// RFC 5656 §3.1.2 writes r and s as two mpints; here each has its whole length.
fn fixed(mut bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut all = Vec::with_capacity(2 * length);
    for _ in 0..2 {
        let (size, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*size)).ok()?)?;
        let number = Mpint::from_bytes(number).ok()?;
        let number = number.as_positive_bytes()?;
        let padding = length.checked_sub(number.len())?;
        all.resize(all.len() + padding, 0);
        all.extend_from_slice(number);
        bytes = rest;
    }
    bytes.is_empty().then_some(all)
}

/// What git signs for.
const NAMESPACE: &str = "git";

#[cfg(test)]
mod tests;
