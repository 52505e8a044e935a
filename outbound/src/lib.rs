//! HOST → CONNECTION. A host is resolved and every address vetted ([`resolve`]), dialled ([`dial`]) and verified ([`tls`]).
//! The sidecar reaches an agent's upstreams through it, and the controller whatever it sends a Secret to: both are held
//! to the same rules (DESIGN §7).
//!
//! [`endpoint`] is a URL that Berth itself contacts with a Secret, [`oauth2`] what is asked of a token endpoint.

pub mod alpn;
pub mod resolve;

pub mod identity;
pub mod tls;

pub mod dial;

pub mod endpoint;
pub mod post;

pub mod oauth2;
