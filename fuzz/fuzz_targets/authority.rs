//! An authority that parses is written one way only, and no address hides in a name.

#![no_main]

use std::net::IpAddr;

use berth_egress::authority::Authority;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for parsed in [Authority::from_connect(text), Authority::from_host_header(text, 443)] {
        let Ok(authority) = parsed else { continue };
        let written = authority.to_string();
        assert!(written.is_ascii() && !written.contains(|byte: char| byte.is_ascii_uppercase() || byte.is_control()));
        assert_eq!(Authority::from_connect(&written).as_ref(), Ok(&authority), "{written}");
        if let Some(name) = authority.host.name() {
            assert!(name.parse::<IpAddr>().is_err(), "{name}");
            assert!(!name.ends_with('.'), "{name}");
        }
    }
});
