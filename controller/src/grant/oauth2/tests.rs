//! When a token is asked for, and what is told while there is none.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn oauth2() -> OAuth2 {
    let resolver = berth_outbound::resolve::Resolver::new(HashMap::new(), berth_egress::address::Vetting::default());
    let tls = berth_outbound::tls::UpstreamTls::new(&[]).unwrap();
    let dialer = berth_outbound::dial::Dialer::new(resolver.unwrap(), tls);
    OAuth2::new(Caller::new(dialer, Vec::new()))
}

fn name() -> Name {
    Name {
        namespace: "team-a".to_owned(),
        name: "api".to_owned(),
    }
}

fn wanted(version: &str) -> For {
    For {
        spec: Spec::default(),
        version: version.to_owned(),
    }
}

fn minted(lasts: u64) -> Minted {
    Minted {
        value: SecretString::from("fake-token"),
        lasts: Some(Duration::from_secs(lasts)),
        written: None,
    }
}

fn refused(is_final: bool) -> Refusal {
    Refusal {
        message: "why".to_owned(),
        is_final,
    }
}

#[test]
fn a_token_is_renewed_ahead_of_its_end() {
    // Seconds that it lasts, jitter, second from which the next is due.
    for (lasts, jitter, due) in [(3_600, 0.0, 3_000), (120, 1.0, 96)] {
        let oauth2 = oauth2();
        oauth2.settle(&name(), wanted("1"), Ok(minted(lasts)), (at(0), jitter));
        let known = |second| oauth2.known(&name(), &wanted("1"), at(second));
        assert!(!known(due - 1).is_due, "{lasts}");
        assert!(known(due).is_due && known(due).token.is_some(), "{lasts}");
        assert_eq!(known(0).wait, Duration::from_secs(due.unsigned_abs()));
    }
}

#[test]
fn a_token_that_ends_at_once_is_none() {
    let oauth2 = oauth2();
    oauth2.settle(&name(), wanted("1"), Ok(minted(29)), (at(0), 0.0));
    let known = oauth2.known(&name(), &wanted("1"), at(0));
    assert!(known.token.is_none() && !known.is_due);
    assert!(known.failure.is_some_and(|failure| failure.contains("30 s")));
}

#[test]
fn another_client_or_another_secret_is_another_token() {
    let oauth2 = oauth2();
    oauth2.settle(&name(), wanted("1"), Ok(minted(3_600)), (at(0), 0.0));
    assert!(oauth2.known(&name(), &wanted("1"), at(1)).token.is_some());
    let other = For {
        spec: Spec {
            client_id: "other".to_owned(),
            ..Spec::default()
        },
        version: "1".to_owned(),
    };
    for wanted in [wanted("2"), other] {
        let known = oauth2.known(&name(), &wanted, at(1));
        assert!(known.is_due && known.token.is_none());
    }
}

#[test]
fn our_own_change_of_a_secret_mints_nothing() {
    let oauth2 = oauth2();
    let result = Ok(Minted {
        written: Some("2".to_owned()),
        ..minted(3_600)
    });
    oauth2.settle(&name(), wanted("1"), result, (at(0), 0.0));
    for version in ["1", "2"] {
        assert!(!oauth2.known(&name(), &wanted(version), at(1)).is_due, "{version}");
    }
    assert!(oauth2.known(&name(), &wanted("3"), at(1)).is_due);
}

#[test]
fn failures_are_tried_again_more_and_more_seldom() {
    let oauth2 = oauth2();
    let mut now = 0;
    for pause in [15, 30, 60, 120, 240, 480, 600, 600] {
        oauth2.settle(&name(), wanted("1"), Err(refused(false)), (at(now), 0.0));
        let known = oauth2.known(&name(), &wanted("1"), at(now));
        assert_eq!(known.wait, Duration::from_secs(pause));
        assert_eq!(known.failure.as_deref(), Some("why"));
        now += i64::try_from(pause).unwrap();
    }
    oauth2.settle(&name(), wanted("1"), Err(refused(true)), (at(0), 1.0));
    assert_eq!(oauth2.known(&name(), &wanted("1"), at(0)).wait, Duration::from_mins(12));
    assert!(
        oauth2.known(&name(), &wanted("2"), at(0)).is_due,
        "a changed Secret is tried at once"
    );
    oauth2.settle(&name(), wanted("1"), Ok(minted(60)), (at(now), 0.0));
    assert_eq!(oauth2.known(&name(), &wanted("1"), at(now)).failure, None);
}

#[test]
fn a_token_is_used_until_its_end_while_the_next_cannot_be_had() {
    let oauth2 = oauth2();
    oauth2.settle(&name(), wanted("1"), Ok(minted(100)), (at(0), 0.0));
    oauth2.settle(&name(), wanted("1"), Err(refused(false)), (at(80), 0.0));
    let known = |second| oauth2.known(&name(), &wanted("1"), at(second));
    assert!(known(90).token.is_some() && known(90).failure.is_some());
    assert!(known(96).token.is_none(), "a request has to arrive before its end");
}

#[test]
fn tokens_of_bindings_that_grant_no_more_are_taken_out() {
    let oauth2 = oauth2();
    oauth2.settle(&name(), wanted("1"), Ok(minted(100)), (at(0), 0.0));
    assert!(oauth2.retire("team-b", |_| false).is_empty());
    assert!(oauth2.retire("team-a", |_| true).is_empty());
    assert_eq!(oauth2.retire("team-a", |_| false).len(), 1);
    assert!(oauth2.known(&name(), &wanted("1"), at(1)).token.is_none());
}
