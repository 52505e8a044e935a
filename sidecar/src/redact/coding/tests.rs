//! Bodies that are what they say, and all the ways not to be.

use std::io::Write;

use compression_codecs::core::Level;
use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::zstd::params::CParameter;
use compression_codecs::{EncodeV2, GzipEncoder, ZlibEncoder, ZstdEncoder};

use super::*;

const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

/// A body of one coding.
pub(in super::super) fn encode(coding: Coding, data: &[u8]) -> Vec<u8> {
    match coding {
        Coding::Gzip => drive(&mut GzipEncoder::new(Level::Default.into()), data),
        Coding::Deflate => drive(&mut ZlibEncoder::new(Level::Default.into()), data),
        Coding::Zstd => drive(&mut ZstdEncoder::new(CParameter::quality(Level::Default)), data),
        Coding::Brotli => brotli(data, false),
    }
}

fn drive(encoder: &mut dyn EncodeV2, data: &[u8]) -> Vec<u8> {
    let mut room = vec![0; data.len() + 4096];
    let mut output = WriteBuffer::new_initialized(&mut room);
    let mut input = PartialBuffer::new(data);
    while !input.unwritten().is_empty() {
        encoder.encode(&mut input, &mut output).unwrap();
    }
    assert!(encoder.finish(&mut output).unwrap());
    output.written().to_vec()
}

fn brotli(data: &[u8], large_window: bool) -> Vec<u8> {
    let parameters = brotli::enc::BrotliEncoderParams {
        quality: 5,
        large_window,
        lgwin: if large_window { 26 } else { 22 },
        ..Default::default()
    };
    let mut writer = brotli::CompressorWriter::with_params(Vec::new(), 4096, &parameters);
    writer.write_all(data).unwrap();
    writer.into_inner()
}

fn decode(codings: &[Coding], body: &[u8], chunk: usize) -> Result<Vec<u8>, Error> {
    decode_within(codings, body, chunk, Limits::default())
}

fn decode_within(codings: &[Coding], body: &[u8], chunk: usize, limits: Limits) -> Result<Vec<u8>, Error> {
    let mut decoder = Decoder::new(codings, limits);
    let mut out = Vec::new();
    for chunk in body.chunks(chunk) {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(piece) = decoder.pull()? {
            assert!(!piece.is_empty() && piece.len() <= PIECE);
            out.extend_from_slice(&piece);
        }
    }
    decoder.finish()?;
    Ok(out)
}

/// Compresses neither well nor badly.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] & 0x3f
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn every_coding_is_undone_in_any_chunks() {
    for coding in ALL {
        for length in [0, 1, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let data = sample(length);
            let body = encode(coding, &data);
            for chunk in [1, 2, 1000, usize::MAX] {
                let decoded = decode(&[coding], &body, chunk).unwrap();
                assert!(decoded == data, "{coding:?} of {length} bytes by {chunk}");
            }
        }
    }
}

#[test]
fn stacked_codings_are_undone_in_reverse() {
    let data = sample(40_000);
    for outer in ALL {
        for inner in ALL {
            let body = encode(outer, &encode(inner, &data));
            for chunk in [1, 777, usize::MAX] {
                assert!(
                    decode(&[inner, outer], &body, chunk).unwrap() == data,
                    "{inner:?} in {outer:?} by {chunk}"
                );
            }
        }
    }
}

#[test]
fn a_body_that_breaks_off_anywhere_is_an_error() {
    let data = sample(500);
    for coding in ALL {
        let body = encode(coding, &data);
        for length in 1..body.len() {
            for chunk in [1, usize::MAX] {
                let verdict = decode(&[coding], &body[..length], chunk);
                assert!(
                    verdict.is_err(),
                    "{coding:?} cut at {length} of {} by {chunk}",
                    body.len()
                );
            }
        }
        let stacked = encode(Coding::Gzip, &body[..body.len() - 1]);
        assert!(
            matches!(decode(&[coding, Coding::Gzip], &stacked, 100), Err(Error::Truncated(_))),
            "{coding:?}"
        );
    }
}

#[test]
fn an_empty_body_stays_empty_whatever_its_label() {
    for coding in ALL {
        assert_eq!(decode(&[coding, Coding::Gzip], b"", 1).unwrap(), b"");
    }
}

#[test]
fn a_wrong_label_is_an_error() {
    for label in ALL {
        for coding in ALL.into_iter().filter(|&coding| coding != label) {
            assert!(
                decode(&[label], &encode(coding, &sample(5000)), 1000).is_err(),
                "{coding:?} as {label:?}"
            );
        }
        assert!(
            decode(&[label], b"<html>not encoded at all</html>", 8).is_err(),
            "text as {label:?}"
        );
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    for coding in ALL {
        for chunk in [1, usize::MAX] {
            let body = [encode(coding, b"the body"), b"fake-token-0123456789".to_vec()].concat();
            assert!(decode(&[coding], &body, chunk).is_err(), "{coding:?}");
        }
    }
}

#[test]
fn members_and_frames_follow_each_other() {
    for coding in [Coding::Gzip, Coding::Zstd] {
        let body = [encode(coding, b"one,"), encode(coding, b""), encode(coding, b"two")].concat();
        for chunk in [1, usize::MAX] {
            assert_eq!(decode(&[coding], &body, chunk).unwrap(), b"one,two");
        }
    }
    for coding in [Coding::Deflate, Coding::Brotli] {
        let body = [encode(coding, b"one,"), encode(coding, b"two")].concat();
        assert!(matches!(decode(&[coding], &body, 5), Err(Error::Trailing(_))));
    }
}

#[test]
fn bombs_are_stopped_soon() {
    let zeros = vec![0; 16 * 1024 * 1024];
    for coding in ALL {
        let bomb = encode(coding, &zeros);
        let mut decoder = Decoder::new(&[coding], Limits::default());
        decoder.push(bomb.clone().into());
        let (error, given) = drain(&mut decoder);
        assert!(matches!(error, Error::Ratio), "{coding:?}");
        assert!(given <= RATIO_FLOOR.max(bomb.len() as u64 * RATIO_MAX), "{coding:?}");
        let twice = encode(Coding::Gzip, &bomb);
        assert!(
            matches!(decode(&[coding, Coding::Gzip], &twice, 4096), Err(Error::Ratio)),
            "{coding:?} twice"
        );
    }
}

fn drain(decoder: &mut Decoder) -> (Error, u64) {
    let mut given = 0;
    loop {
        match decoder.pull() {
            Ok(piece) => given += piece.expect("a bomb ends in an error").len() as u64,
            Err(error) => return (error, given),
        }
    }
}

#[test]
fn small_bodies_may_compress_well_and_large_ones_are_capped() {
    let zeros = vec![0; 1024 * 1024];
    let data = sample(200_000);
    for coding in ALL {
        assert!(decode(&[coding], &encode(coding, &zeros), 100).is_ok(), "{coding:?}");
        let limits = Limits { bytes: 199_999 };
        let verdict = decode_within(&[coding], &encode(coding, &data), 1000, limits);
        assert!(matches!(verdict, Err(Error::Large(199_999))), "{coding:?}");
    }
}

#[test]
fn windows_beyond_what_browsers_take_are_refused() {
    let data = sample(100_000);
    let parameters = [
        CParameter::window_log(25),
        CParameter::enable_long_distance_matching(true),
    ];
    let level = CParameter::quality(Level::Default);
    let zstd = drive(&mut ZstdEncoder::new_with_params(level, &parameters), &data);
    assert!(matches!(
        decode(&[Coding::Zstd], &zstd, 1000),
        Err(Error::Corrupt { .. })
    ));
    assert!(matches!(
        decode(&[Coding::Brotli], &brotli(&data, true), 1000),
        Err(Error::Corrupt { .. })
    ));
}

#[test]
fn labels_are_read_strictly() {
    let read = |values: &[&'static str]| {
        let values = values
            .iter()
            .map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(name, value);
        }
        codings(&headers)
    };
    assert_eq!(read(&[]).unwrap(), []);
    assert_eq!(read(&["identity", ""]).unwrap(), []);
    assert_eq!(
        read(&["X-GZIP, br", " zstd "]).unwrap(),
        [Coding::Gzip, Coding::Brotli, Coding::Zstd]
    );
    assert!(matches!(read(&["gzip", "compress"]), Err(Error::Unknown(name)) if name == "compress"));
    assert!(matches!(read(&["dcb"]), Err(Error::Unknown(_))));
    assert!(matches!(read(&["gzip;q=1"]), Err(Error::Unknown(_))));
    assert!(matches!(read(&["gzip, gzip, gzip, gzip"]), Err(Error::Many)));
}

#[test]
fn a_decoded_head_tells_nothing_of_the_encoded_body() {
    let mut headers = HeaderMap::new();
    for name in UNTRUE {
        headers.insert(name, HeaderValue::from_static("1"));
    }
    headers.insert(ETAG, HeaderValue::from_static("\"abc\""));
    relabel(&mut headers);
    assert_eq!(
        headers,
        HeaderMap::from_iter([(ETAG, HeaderValue::from_static("W/\"abc\""))])
    );
    relabel(&mut headers);
    assert_eq!(headers[ETAG], "W/\"abc\"");
}
