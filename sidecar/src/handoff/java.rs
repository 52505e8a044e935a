//! Pure: certificates → a trust store for Java, which reads no PEM files. JKS, the format of
//! `sun.security.provider.JavaKeyStore` and no other document: every JVM from 8 on reads it.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// A store that trusts these certificates (DER).
pub fn store<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count: u32 = 0;
    for certificate in certificates {
        entries.extend(TRUSTED.to_be_bytes());
        text(&mut entries, &format!("ca-{count}"));
        entries.extend(0_u64.to_be_bytes()); // when it was added
        text(&mut entries, "X.509");
        entries.extend(u32::try_from(certificate.len()).unwrap_or_default().to_be_bytes());
        entries.extend_from_slice(certificate);
        count += 1;
    }
    let mut store = [MAGIC, VERSION, count].map(u32::to_be_bytes).concat();
    store.extend(entries);
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(&PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>());
    digest.update(b"Mighty Aphrodite");
    digest.update(&store);
    store.extend_from_slice(digest.finish().as_ref());
    store
}

/// Its length, then itself.
fn text(into: &mut Vec<u8>, text: &str) {
    into.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
/// Tag of an entry that is a certificate alone.
const TRUSTED: u32 = 2;
/// Java's own; nothing is secret, and a JVM that is told none doesn't compare the digest.
const PASSWORD: &str = "changeit";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_laid_out_as_java_reads_it() {
        let store = store([&b"one"[..], &b"two!"[..]]);
        let expected = [
            &[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 2][..],
            b"\0\0\0\x02\0\x04ca-0\0\0\0\0\0\0\0\0\0\x05X.509\0\0\0\x03one",
            b"\0\0\0\x02\0\x04ca-1\0\0\0\0\0\0\0\0\0\x05X.509\0\0\0\x04two!",
        ]
        .concat();
        assert_eq!(store[..store.len() - 20], expected);
    }
}
