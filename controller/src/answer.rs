//! Answers of the API server that are no failures.

/// Somebody else wrote or deleted the object meanwhile: the watch brings what stands now.
pub fn is_overtaken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if ["Conflict", "NotFound"].contains(&status.reason.as_str()))
}

/// The namespace is being deleted and takes nothing new: what is in it goes, and with it the wish.
pub fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status
        .details
        .as_ref()
        .map_or(&[][..], |details| details.causes.as_slice());
    causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}
