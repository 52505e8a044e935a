//! EVIDENCE: what is proven of a binding beside that it stands in git (DESIGN §4).
//!
//! [`signers`] reads whose keys count, [`signed`] looks at the author's commit, [`review`] judges what the forge and the
//! source's own clone say of a pull request, [`seal`] keeps a verdict in the status, and [`prove`] puts them together;
//! all of them pure. [`ask`] asks the forge, beside the passes. Only the clone and a forge of the install's own
//! configuration count: not labels, not annotations, not what a commit says of itself.

pub mod prove;

pub mod signers;

pub mod signed;

pub mod review;

pub mod seal;

pub mod ask;
