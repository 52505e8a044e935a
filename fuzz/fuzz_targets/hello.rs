//! The beginning of a redirected connection is read without a panic, and more bytes never take back what was said.

#![no_main]

use berth_egress::authority::Authority;
use berth_sidecar::tunnel::transparent::{Said, said};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|read: &[u8]| {
    let Ok(whole) = said(read) else { return };
    if let Said::Host(host, port) = &whole {
        let _ = Authority::from_host_header(host, *port);
    }
    for end in 0..read.len().min(64) {
        match said(&read[..end]) {
            Ok(Said::NotYet) | Err(_) => {}
            Ok(said) => assert_eq!(said, whole, "after {end} bytes"),
        }
    }
});
