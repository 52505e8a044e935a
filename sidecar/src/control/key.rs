//! The stream key: an Ed25519 pair, made once per pod. With it the sidecar proves that a new stream is of the same
//! pod; it never leaves `vault-state`.

use std::io;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use berth_protocol::KEY_PROOF_PREFIX;

use super::state::write_atomically;

/// The pair.
pub struct StreamKey {
    pair: Ed25519KeyPair,
}

/// There is no usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file couldn't be read or written.
    #[error("failed to keep the stream key")]
    File(#[source] io::Error),
    /// It couldn't be made.
    #[error("failed to make a stream key")]
    Make,
    /// It was read and is no key.
    #[error("the stream key isn't an Ed25519 key in PKCS#8; the pod has to be replaced")]
    Unusable,
}

impl StreamKey {
    /// The key in `directory`, made now if this is the pod's first sidecar.
    pub fn open(directory: &Path) -> Result<Self, KeyError> {
        let path = directory.join(FILE);
        let document = match std::fs::read(&path) {
            Ok(document) => document,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made =
                    Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_unspecified| KeyError::Make)?;
                write_atomically(&path, made.as_ref()).map_err(KeyError::File)?;
                made.as_ref().to_vec()
            }
            Err(error) => return Err(KeyError::File(error)),
        };
        let pair = Ed25519KeyPair::from_pkcs8(&document).map_err(|_rejected| KeyError::Unusable)?;
        Ok(Self { pair })
    }

    /// The public half, 32 bytes.
    pub fn public(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// Signs a nonce of the controller.
    pub fn prove(&self, nonce: &[u8]) -> Vec<u8> {
        self.pair.sign(&[KEY_PROOF_PREFIX, nonce].concat()).as_ref().to_vec()
    }
}

const FILE: &str = "stream.key";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn the_key_is_private_survives_and_verifies() {
        let state = tempfile::tempdir().unwrap();
        let first = StreamKey::open(state.path()).unwrap();
        let second = StreamKey::open(state.path()).unwrap();
        assert_eq!(first.public(), second.public());
        let mode = std::fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let signed = [KEY_PROOF_PREFIX, b"nonce"].concat();
        UnparsedPublicKey::new(&ED25519, first.public())
            .verify(&signed, &second.prove(b"nonce"))
            .unwrap();
    }

    #[test]
    fn a_broken_key_is_not_replaced() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join(FILE), b"nonsense").unwrap();
        assert!(matches!(StreamKey::open(state.path()), Err(KeyError::Unusable)));
    }
}
