//! The two wires of a bound pod: the control stream between sidecar and controller ([`control`], gRPC, DESIGN §8)
//! and the handoff between sidecar and runner ([`handoff`], framed JSON over a unix socket).
//!
//! Both are versioned by [`VERSION`]. A secret value has one field, `CredentialValue.secret`, from the
//! controller to a bound sidecar.

pub mod budget;
pub mod checkpoint;
pub mod environment;
pub mod handoff;
pub mod money;
pub mod told;

/// Messages of the control stream, generated from `proto/berth/control/v1/control.proto`.
pub mod control {
    #![expect(
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::large_enum_variant,
        clippy::pedantic,
        missing_docs,
        unused_qualifications,
        reason = "generated code; the .proto documents it"
    )]
    tonic::include_proto!("berth.control.v1");
}

/// Version of the control stream. A controller serves this one and refuses others with a message that says which.
pub const VERSION: u32 = 1;

/// Audience of the projected token that a sidecar presents (DESIGN §5.3). Tokens of another audience are refused.
pub const AUDIENCE: &str = "berth";

/// What a sidecar signs in `KeyProof`: this prefix, then the nonce of `Welcome`.
pub const KEY_PROOF_PREFIX: &[u8] = b"berth stream v1\0";

/// Port of the control stream on the controller's Service.
pub const CONTROL_PORT: u16 = 8443;
