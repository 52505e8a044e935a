//! Pure: the status of a binding or a policy. This release grants nothing, and each of them says so.

use berth_crds::condition::{self, Wanted};
use berth_crds::{ConditionType, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::session::plan::time;

/// What bindings and policies have in common of their status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// Generation of the spec that is spoken of; 0 or less before the first status.
    pub generation: i64,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// What is to be said of a spec of this generation; `None` when it stands already.
pub fn status(kind: &str, generation: i64, old: &Said, now: Timestamp) -> Option<Said> {
    let message = format!("{kind} has no effect in this release: nothing is granted");
    let wanted = [
        Wanted::no(ConditionType::Ready, Reason::NotImplemented, message.clone()),
        Wanted::yes(ConditionType::Stalled, Reason::NotImplemented, message),
    ];
    let new = Said {
        generation,
        conditions: condition::merge(&old.conditions, &wanted, generation, &time(now)),
    };
    (new != *old).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds is a time")
    }

    #[test]
    fn a_generation_is_told_once() {
        let first = status("GrantPolicy", 1, &Said::default(), at(1)).expect("a first status");
        let told: Vec<(&str, &str, &str)> = first
            .conditions
            .iter()
            .map(|it| (it.type_.as_str(), it.status.as_str(), it.reason.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("Ready", "False", "NotImplemented"),
                ("Stalled", "True", "NotImplemented")
            ]
        );
        assert_eq!(status("GrantPolicy", 1, &first, at(2)), None);

        let second = status("GrantPolicy", 2, &first, at(3)).expect("the next generation's status");
        assert_eq!(second.generation, 2);
        let since = second.conditions.iter().map(|it| it.last_transition_time.0);
        assert!(since.eq([at(1), at(1)]), "nothing went from one state to another");
    }
}
