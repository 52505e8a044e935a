//! A target that parses is canonical: parsing it again changes nothing, and no segment climbs.

#![no_main]

use berth_egress::path::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &str| {
    let Ok(target) = Target::parse(raw) else { return };
    let path = target.path.as_str();
    assert!(path.starts_with('/') && !path.starts_with("//"), "{path}");
    assert!(
        target.path.segments().all(|segment| segment != "." && segment != ".."),
        "{path}"
    );
    let mut whole = path.to_owned();
    if let Some(query) = &target.query {
        whole.push('?');
        whole.push_str(query.as_str());
    }
    let again = Target::parse(&whole).expect("what is sent parses");
    assert_eq!(again.path.as_str(), path);
    assert_eq!(
        again.query.as_ref().map(|it| it.as_str()),
        target.query.as_ref().map(|it| it.as_str())
    );
});
