//! AGENTPOOL → WARM SANDBOXES. A pool is rendered into a pair of SandboxTemplate and SandboxWarmPool, named after the
//! pod's shape; a change makes a new pair and drains the old one, blue/green (DESIGN §3 AgentPool).
//!
//! In: the pool, its pairs, the claims on them, what admission says of the pod. Out: writes of those objects and the
//! pool's status. Never touches a claim, a bound sandbox or a pod.

pub mod breaker;
pub mod objects;
pub mod pair;
pub mod plan;
pub mod pod;
pub mod reconcile;
pub mod rendered;
pub mod status;
