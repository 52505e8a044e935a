//! A policy file, whatever it holds, is compiled or refused with a message; what compiles survives being written.

#![no_main]

use std::path::Path;

use berth_egress::authority::Authority;
use berth_egress::lint::lint;
use berth_egress::rules::Rules;
use berth_sidecar::standalone;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(policy) = standalone::parse(Path::new("policy.yaml"), text) else {
        return;
    };
    let findings = lint(&policy);
    let (rules, found) = Rules::compile(policy.clone());
    assert!(found.len() >= findings.len());
    assert_eq!(Rules::strict(policy).is_ok(), found.is_empty());
    if let Ok(authority) = Authority::from_connect("api.example.com:443") {
        let _ = rules.connect(&authority);
    }
});
