//! Budgets of a thousand picodollars: a byte costs one, a token of the answer ten.

use super::*;

fn meter(limit: u64, spent: u64) -> Arc<Meter> {
    let meter = Meter::default();
    let price = Price {
        model: "m".to_owned(),
        input: Pico(1),
        output: Pico(10),
        output_max: 50,
        ..Price::default()
    };
    meter.adopt(Some(Budget {
        limit: Pico(limit),
        spent: Pico(spent),
        credit: Pico(0),
        credentials: vec!["KEY".to_owned()],
        prices: vec![price],
    }));
    Arc::new(meter)
}

#[test]
fn what_a_gateway_takes_off_may_be_spent() {
    let meter = meter(1_000, 0);
    let mut cut = meter.reserve("m", 500, Some(50)).expect("1,000 of 1,000");
    cut.sends(true);
    let cost = cut.end(200, Ended::Broken);
    assert_eq!((cost.amount, cost.is_estimate), (Pico(1_000), true));
    assert!(meter.reserve("m", 1, Some(0)).is_err());
    let budget = meter.state.lock().budget.clone();
    meter.adopt(budget.map(|budget| Budget {
        credit: Pico(400),
        ..budget
    }));
    assert!(meter.reserve("m", 401, Some(0)).is_err());
    assert!(meter.reserve("m", 400, Some(0)).is_ok());
}

fn json() -> Option<Reader> {
    let mut reader = Reader::of("application/json")?;
    reader.push(br#"{"usage": {"prompt_tokens": 20, "completion_tokens": 3}}"#);
    Some(reader)
}

#[test]
fn what_could_be_spent_never_exceeds_the_budget() {
    let meter = meter(1_000, 300);
    // 100 bytes and 20 tokens: 300 each.
    let first = meter.reserve("m", 100, Some(20)).expect("600 of 1,000");
    let second = meter.reserve("m", 100, Some(20)).expect("900 of 1,000");
    let refused = meter.reserve("m", 100, Some(20)).err();
    let expected = Unaffordable::Exhausted {
        limit: Pico(1_000),
        taken: Pico(900),
        most: Pico(300),
    };
    assert_eq!(refused, Some(expected));
    // What it did cost is less, and the rest is there again.
    let (mut first, mut second) = (first, second);
    first.sends(true);
    second.sends(true);
    first.answered(json(), None);
    let cost = first.end(200, Ended::Complete);
    assert_eq!((cost.amount, cost.is_estimate), (Pico(50), false));
    let third = meter.reserve("m", 100, Some(20));
    assert!(third.is_ok(), "300 + 50 + 300 + 300");
    drop((second, third));
    assert!(
        meter.reserve("m", 350, Some(0)).is_ok(),
        "300 + 50 + 300 + 350: what wasn't sent is back"
    );
    assert!(
        meter.reserve("m", 351, Some(0)).is_err(),
        "what was sent has kept what it reserved"
    );
}

#[test]
fn one_that_asks_for_no_limit_may_answer_with_the_models_most() {
    let meter = meter(1_000, 0);
    assert!(meter.reserve("m", 500, None).is_ok(), "500 + 50 times 10");
    assert!(meter.reserve("m", 501, None).is_err());
    assert_eq!(
        meter.reserve("other", 1, None).err(),
        Some(Unaffordable::NoPrice("other".to_owned()))
    );
}

#[test]
fn an_answer_that_says_nothing_keeps_what_was_reserved() {
    type Ends = fn(&mut Reservation);
    let cases: [(&str, Ends, u16, Ended, u64); 7] = [
        ("whole", |it| it.answered(json(), None), 200, Ended::Complete, 50),
        ("broken off", |it| it.answered(json(), None), 200, Ended::Broken, 300),
        ("cut", |it| it.answered(json(), None), 200, Ended::Cut, 300),
        (
            "silent",
            |it| it.answered(Reader::of("application/json"), None),
            200,
            Ended::Complete,
            300,
        ),
        (
            "by the gateway",
            |it| it.answered(json(), Some(Pico(7))),
            200,
            Ended::Complete,
            7,
        ),
        ("refused", |it| it.answered(None, None), 429, Ended::Complete, 0),
        ("unsent", |it| it.sends(false), 0, Ended::Broken, 0),
    ];
    for (name, ends, status, ended, expected) in cases {
        let meter = meter(1_000, 0);
        let mut reserved = meter.reserve("m", 100, Some(20)).unwrap();
        reserved.sends(true);
        ends(&mut reserved);
        assert_eq!(reserved.end(status, ended).amount, Pico(expected), "{name}");
        let state = meter.state.lock();
        assert_eq!((state.spent, state.reserved), (Pico(expected), Pico(0)), "{name}");
    }
}

#[test]
fn what_was_spent_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let begin = || {
        let meter = Meter::kept(folder.path());
        meter.adopt(self::meter(1_000, 0).state.lock().budget.clone());
        Arc::new(meter)
    };
    let mut reserved = begin().reserve("m", 100, Some(50)).unwrap(); // 600
    reserved.sends(true);
    drop(reserved);
    assert!(begin().reserve("m", 100, Some(31)).is_err());
    assert!(begin().reserve("m", 100, Some(30)).is_ok());
}

#[test]
fn a_limit_is_news_once() {
    let meter = meter(1_000, 0);
    assert!(meter.is_news(Pico(1_000)) && !meter.is_news(Pico(1_000)));
    assert!(meter.is_news(Pico(2_000)), "another limit");
    let budget = meter.state.lock().budget.clone();
    meter.adopt(budget);
    assert!(
        meter.is_news(Pico(2_000)),
        "granted anew, by a leader that may be another"
    );
}

#[test]
fn fifty_at_once_spend_no_more_than_there_is() {
    let meter = meter(1_000, 0);
    let threads: Vec<_> = (0..50)
        .map(|_| {
            let meter = Arc::clone(&meter);
            std::thread::spawn(move || meter.reserve("m", 100, Some(20)).ok())
        })
        .collect();
    let held: Vec<_> = threads
        .into_iter()
        .filter_map(|thread| thread.join().unwrap())
        .collect();
    assert_eq!(held.len(), 3, "of 300 each");
}
