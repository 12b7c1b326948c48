use alloc::format;
use alloc::string::ToString as _;
use alloc::vec;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/vectors/crypto.json"
));

/// 1024 bits, exponent 65537; made for these tests.
const N: &str = "deea09d1f2963929e00a588f61450939ed31e5ca042e52232be947e5b5aadf606c85e7a09d2121426ee7d6430ccb2608a8c2991d8c5759ae777cb25724a86791916f83efa3530dcbc494ba230f31140b64e39389f2f1b06a67738b97a9e5d5ff7dac927a9ea1b5948a2763a73eeb6524c9e078cf54d326667789e29a69d9dcb1";
const D: &str = "6273b96c9998d19c760ffbb72fbdbeea6fa1571d1725a22f58888ab1a0bfdc32891bc7067fff8ee1f97bb97d199c6baaed662d1c08ccd7961fbdda4274b5502ffe2bc9d31484ed8f4deb6433f11fa4ecf454fdb3bcdb4fcb9fe46f754cdc3fa5f7b6c63c979d12fc7bea7b4ca881e2904d24eec0c95a028e0898e50e43ff3f41";
/// 1021 bits, exponent 3.
const ODD_N: &str = "17937fc9eb4b3282cda8744bf95d9edc54e27fcb8a7a41c37f7a71937e73d9b2ca376a483937b56327d535831ccb0041b17ca63e50c65d9b53995f04cbceb91aa09cb84793f58bffce520f1cd3af841e113a883e11717bfa346e8b5c6a80036d067748cad95750a64b24ecbbddd097e97b4595eeeae8e1aa99bfe8b1fc423475";
const ODD_D: &str = "fb7aa869cdccc5733c5a2dd50e91492e341aa87b1a6d68254fc4bb7a9a29121dc24f1857b7a78ecc538ce576887558120fdc4298b2ee91237bb94addd347b66a809b99238dda41f26e7ebaeffd703d1f1fdb17f5765195e66ad936da3699e1ca0dbfacfc782c3f9b03f858ea4362510a1622a9f0563d79755c51bbcd91615ab";

fn key() -> RsaKey {
    RsaKey::from_handshake(N, 65537).unwrap()
}

fn number(hex: &str) -> BigUint {
    BigUint::parse_bytes(hex.as_bytes(), 16).unwrap()
}

/// The signature of a whole block, good or bad.
fn sign_block(block: &[u8], n: &str, d: &str) -> String {
    let signature = BigUint::from_bytes_be(block).modpow(&number(d), &number(n));
    format!("{:0>width$}", signature.to_str_radix(16), width = n.len())
}

fn block(text: &str, hash: Hash, len: usize) -> Vec<u8> {
    let digest = hash.of(text.as_bytes());
    let mut block = vec![0, 1];
    block.resize(len - 1 - hash.head().len() - digest.len(), 0xff);
    block.push(0);
    [&block, hash.head(), &digest].concat()
}

fn signature(text: &str, hash: Hash) -> String {
    sign_block(&block(text, hash, 128), N, D)
}

fn verify(body: &str) -> Result<String, SignatureError> {
    key()
        .verify_json(body.as_bytes(), HashPolicy::Sha2)
        .map(|text| String::from_utf8(text).unwrap())
}

#[test]
fn vectors() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let e = vectors["rsa"]["rsa_e"].as_u64().unwrap();
    let key = RsaKey::from_handshake(vectors["rsa"]["rsa_n"].as_str().unwrap(), e).unwrap();
    assert_eq!(
        RsaKey::from_handshake(vectors["rsa"]["rsa_n"].as_str().unwrap(), &*e.to_string()).unwrap(),
        key
    );
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let body = case["input"]["bodyJson"].as_str().unwrap();
        let text = case["input"]["signedText"].as_str().unwrap();
        let old = matches!(case["input"]["algorithm"].as_str().unwrap(), "sha1" | "md5");
        // The one verdict that differs from the original's on purpose.
        let good = case["verified"].as_bool().unwrap() || name == "CJK, signed over UTF-8";
        for (policy, accepted) in [(HashPolicy::Legacy, good), (HashPolicy::Sha2, good && !old)] {
            let verdict = key.verify_json(body.as_bytes(), policy);
            assert_eq!(verdict.is_ok(), accepted, "{name} {policy:?}: {verdict:?}");
            if let Ok(rest) = verdict {
                assert_eq!(rest, text.as_bytes(), "{name}");
            }
        }
    }
}

#[test]
fn the_member_is_cut_out_wherever_it_stands() {
    for (before, rest, after) in [
        ("{", "{}", "}"),
        ("{ ", "{  }", " }"),
        ("{\"a\":1,", "{\"a\":1}", "}"),
        ("{", "{\"a\":1}", ",\"a\":1}"),
        (
            "{\"a\":1,",
            "{\"a\":1,\"b\":{\"c\":[1,2]}}",
            ",\"b\":{\"c\":[1,2]}}",
        ),
        ("{\"a\":\"x\\\\\\\",\" ,", "{\"a\":\"x\\\\\\\",\" }", "}"),
        (
            "{\"o\":{\"__crypto__\":1},",
            "{\"o\":{\"__crypto__\":1}}",
            "}",
        ),
        ("{\"s\":\"__crypto__\",", "{\"s\":\"__crypto__\"}", "}"),
        (" {\"a\" : [ \"}\" ] , ", " {\"a\" : [ \"}\" ] \n}", "\n}"),
    ] {
        for name in ["__crypto__", "__crypto\\u005f_"] {
            let body = format!(
                "{before}\"{name}\":\"{}\"{after}",
                signature(rest, Hash::Sha256)
            );
            assert_eq!(verify(&body).as_deref(), Ok(rest), "{body}");
        }
    }
}

#[test]
fn defect_27_bodies_that_are_not_signed() {
    use SignatureError::{Ambiguous, NotAnObject, NotSigned, Size};
    for (body, error) in [
        ("", NotAnObject),
        ("5", NotAnObject),
        ("[]", NotAnObject),
        ("\"__crypto__\"", NotAnObject),
        ("{\"__crypto__\":\"ab\"", NotAnObject),
        ("{}x", NotAnObject),
        ("{}", NotSigned),
        ("{\"a\":{\"__crypto__\":\"ab\"}}", NotSigned),
        ("{\"__crypto__\":5}", NotSigned),
        ("{\"__crypto__\":null}", NotSigned),
        ("{\"__crypto__\":{\"a\":\"b\"}}", NotSigned),
        ("{\"__crypto__\":\"\"}", Size),
        ("{\"__crypto__\":\"ab\"}", Size),
        ("{\"__crypto__\":\"ab\",\"__crypto__\":\"ab\"}", Ambiguous),
    ] {
        assert_eq!(verify(body), Err(error), "{body}");
    }
    assert_eq!(
        key().verify_json(b"{\"a\":\"\xff\"}", HashPolicy::Sha2),
        Err(NotAnObject)
    );
}

#[test]
fn other_characters_in_the_hex_are_dropped() {
    let hex = signature("{}", Hash::Sha256);
    let (a, b) = hex.split_at(7);
    let body = format!("{{\"__crypto__\":\"{a}:\\n \\u4e2d{b}\"}}");
    assert_eq!(verify(&body).as_deref(), Ok("{}"));
    assert_eq!(
        verify(&format!("{{\"__crypto__\":\"0{hex}\"}}")),
        Err(SignatureError::Size)
    );
}

#[test]
fn a_signature_is_smaller_than_the_modulus() {
    let more = number(&signature("{}", Hash::Sha256)) + number(N);
    let bodies = [N.into(), "f".repeat(256), more.to_str_radix(16)];
    for hex in bodies.into_iter().filter(|hex| hex.len() == 256) {
        assert_eq!(
            verify(&format!("{{\"__crypto__\":\"{hex}\"}}")),
            Err(SignatureError::Size)
        );
    }
    for hex in ["0".repeat(256), format!("{:0>256}", 1)] {
        assert_eq!(
            verify(&format!("{{\"__crypto__\":\"{hex}\"}}")),
            Err(SignatureError::Wrong)
        );
    }
}

#[test]
fn padding_is_strict() {
    let good = block("{}", Hash::Sha256, 128);
    let signed = |block: &[u8]| {
        verify(&format!(
            "{{\"__crypto__\":\"{}\"}}",
            sign_block(block, N, D)
        ))
    };
    assert_eq!(signed(&good).as_deref(), Ok("{}"));
    for at in 0..good.len() {
        let mut bad = good.clone();
        // The first byte must stay small enough for the modulus.
        bad[at] ^= if at == 0 { 0x40 } else { 0x81 };
        assert_eq!(signed(&bad), Err(SignatureError::Wrong), "byte {at}");
    }
    // Short padding, and the bytes that are saved behind the digest: Bleichenbacher's forgery.
    let info = &good[128 - 51..];
    let forged = [&[0, 1], &[0xff; 8][..], &[0], info, &[0; 128 - 51 - 11]].concat();
    assert_eq!(signed(&forged), Err(SignatureError::Wrong));
    // A digest without its head, a head without its digest.
    let bare = [&[0, 1], &[0xff; 128 - 35][..], &[0], &good[96..]].concat();
    assert_eq!(signed(&bare), Err(SignatureError::Wrong));
    let headed = [&[0, 1], &[0xff; 128 - 22][..], &[0], Hash::Sha256.head()].concat();
    assert_eq!(signed(&headed), Err(SignatureError::Wrong));
}

#[test]
fn moduli_need_not_fill_their_digits() {
    let key = RsaKey::from_handshake(ODD_N, "3").unwrap();
    assert_eq!(key.bits(), 1021);
    for hash in [Hash::Sha256, Hash::Sha512, Hash::Sha1, Hash::Md5] {
        let hex = sign_block(&block("{}", hash, 128), ODD_N, ODD_D);
        let body = format!("{{\"__crypto__\":\"{hex}\"}}");
        assert_eq!(
            key.verify_json(body.as_bytes(), HashPolicy::Legacy)
                .as_deref(),
            Ok(&b"{}"[..])
        );
    }
}

#[test]
fn text_may_be_hashed_twice_encoded_only_with_cjk_in_it() {
    for (text, accepted) in [
        ("{\"a\":\"中\"}", true),
        ("{\"a\":\"\u{9fa5}\"}", true),
        ("{\"a\":\"é\"}", false),
        ("{\"a\":\"\u{9fa6}\"}", false),
    ] {
        let hex = signature(&encode_twice(text), Hash::Sha256);
        let body = format!("{},\"__crypto__\":\"{hex}\"}}", text.trim_end_matches('}'));
        assert_eq!(verify(&body).is_ok(), accepted, "{text}");
    }
}

#[test]
fn keys_are_checked_before_they_are_used() {
    let even = format!("{}0", &N[1..]);
    let moduli = [
        "",
        "0",
        "zz",
        "-5",
        "+5",
        " ",
        &N[..127],
        &even,
        &format!("{N}g"),
        &format!("+{N}"),
        &format!("{}_{}", &N[..9], &N[9..]),
        &"f".repeat(1025),
        &"f".repeat(1 << 20),
    ];
    for n in moduli {
        assert_eq!(RsaKey::from_handshake(n, 65537), Err(KeyError::Modulus));
    }
    assert_eq!(
        RsaKey::from_handshake(&format!("000{N}"), 3).map(|key| key.bits()),
        Ok(1024)
    );
    assert_eq!(
        RsaKey::from_handshake(&N.to_uppercase(), 3),
        RsaKey::from_handshake(N, 3)
    );
    for e in [3, 17, 65537, (1 << 17) - 1] {
        assert!(RsaKey::from_handshake(N, e).is_ok(), "{e}");
    }
    assert!(RsaKey::from_handshake(&"f".repeat(1024), 3).is_ok());
    assert!(RsaKey::from_handshake(&"f".repeat(128), 3).is_ok());
    for e in [
        0,
        1,
        2,
        65536,
        (1 << 17) + 1,
        u64::from(u32::MAX),
        1 << 32,
        (1 << 32) + 1,
        u64::MAX,
    ] {
        assert_eq!(RsaKey::from_handshake(N, e), Err(KeyError::Exponent));
    }
    for e in [
        "",
        "0x10001",
        "1e3",
        "-3",
        "3.0",
        "131073",
        "4294967295",
        "4294967297",
    ] {
        assert_eq!(RsaKey::from_handshake(N, e), Err(KeyError::Exponent));
    }
}

proptest! {
    #[test]
    fn any_text_is_taken(text: String, bytes: Vec<u8>) {
        let _ = verify(&text);
        let _ = key().verify_json(&bytes, HashPolicy::Legacy);
    }

    #[test]
    fn what_is_cut_out_is_one_member_and_the_rest_is_json(
        members in proptest::collection::vec(("[a-z\"\\\\{},:\\[\\]]{0,4}", "[a-z\"\\\\{},:\\[\\]]{0,6}", 0..3), 0..5),
        place in 0usize..6,
    ) {
        let mut parts: Vec<String> = members
            .iter()
            .map(|(name, text, shape)| {
                let (name, text) = (serde_json::to_string(name).unwrap(), serde_json::to_string(text).unwrap());
                match shape {
                    0 => format!("{name}:{text}"),
                    1 => format!("{name} : [ {text} , {{{text}:-1.5e3}}]"),
                    _ => format!("\n{name}:{{{text}:null}}"),
                }
            })
            .collect();
        let rest = format!("{{{}}}", parts.join(","));
        parts.insert(place.min(parts.len()), "\"__crypto__\":\"ab\"".into());
        let body = format!("{{{}}}", parts.join(","));
        let signed = find_signature(&body).unwrap();
        prop_assert_eq!(&*signed.signature, "ab");
        let left = [&body[..signed.cut.start], &body[signed.cut.end..]].concat();
        let compact = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        prop_assert_eq!(compact(&left), compact(&rest));
    }
}
