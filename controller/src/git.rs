//! Stub.
#![allow(missing_docs)]
pub mod fetch {
    pub fn child() -> std::process::ExitCode {
        std::process::ExitCode::FAILURE
    }
}
pub mod webhook {
    pub const BODY_MAX: usize = 1 << 20;
}
pub mod reconcile {
    use crate::context::Context;
    use crate::watch::Name;
    use crate::work::Outcome;
    use std::sync::Arc;
    #[derive(Clone)]
    pub struct Sources;
    impl Sources {
        pub fn new(_c: kube::Client, _d: &std::path::Path) -> Self {
            Self
        }
    }
    pub async fn reconcile(_c: Arc<Context>, _n: Name) -> Outcome {
        Outcome::Done
    }
    pub async fn webhook_is_authentic(
        _c: &Context,
        _n: &Name,
        _h: &axum::http::HeaderMap,
        _b: &[u8],
    ) -> Result<bool, std::io::Error> {
        Ok(false)
    }
}
