use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::id::EventId;

fn vectors(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn native_vectors() -> Value {
    vectors(include_str!("../../../tests/vectors/native.json"))
}

fn jwe_vectors() -> Value {
    vectors(include_str!("../../../tests/vectors/jwe.json"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text(value).as_bytes()).unwrap()
}

fn acme() -> SourceId {
    "acme".parse().unwrap()
}

/// The outcome of the native parser: "ok" or the code.
fn native(body: impl AsRef<[u8]>) -> &'static str {
    parse_native(body.as_ref()).map_or_else(|error| error.code(), |_| "ok")
}

/// The outcome of the JWE parser: "ok" or the code.
fn jwe(body: impl AsRef<[u8]>) -> &'static str {
    parse_jwe(body.as_ref(), &acme()).map_or_else(|error| error.code(), |_| "ok")
}

const NONCE: &str = "AAECAwQFBgcICQoL";

fn body(encrypted: &str, nonce: &str) -> String {
    format!(r#"{{"encrypted":"{encrypted}","nonce":"{nonce}"}}"#)
}

fn sealed(len: usize) -> String {
    STANDARD.encode(vec![0xa5; len])
}

// Native.

#[test]
fn golden_native_envelope() {
    let vectors = native_vectors();
    let golden = &vectors["envelope"];
    let parsed = parse_native(text(&golden["body_utf8"]).as_bytes()).unwrap();
    assert_eq!(parsed.nonce().as_slice(), hex(&golden["nonce_hex"]));
    assert_eq!(STANDARD.decode(parsed.ciphertext()).unwrap(), hex(&golden["ciphertext_and_tag_hex"]));
}

#[test]
fn golden_native_bodies() {
    let vectors = native_vectors();
    let outcomes: Vec<_> = vectors["signature_cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| (text(&case["name"]), native(hex(&case["body_hex"]))))
        .collect();
    let expect = [
        ("compact", "ok"),
        ("spaced", "ok"),
        ("invalid_utf8", "invalid_json"),
        ("bom", "invalid_json"),
        ("empty_body", "invalid_json"),
        ("sig_of_spaced_on_compact", "ok"),
        ("sig_of_other_ts", "ok"),
    ];
    assert_eq!(outcomes, expect);
    // Deciding by the content comes to the same.
    for case in vectors["signature_cases"].as_array().unwrap() {
        let body = hex(&case["body_hex"]);
        let decided = Envelope::parse(&body, &acme()).map_or_else(|error| error.code(), |_| "ok");
        assert_eq!(decided, native(&body));
    }
}

#[test]
fn native_borrows_from_the_body() {
    let body = body(&sealed(100), NONCE);
    let parsed = parse_native(body.as_bytes()).unwrap();
    assert!(body.as_bytes().as_ptr_range().contains(&parsed.ciphertext().as_ptr()));
}

#[test]
fn native_takes_any_spacing_order_and_escape() {
    let encrypted = sealed(40);
    for good in [
        format!("{{\r\n\t\"nonce\" : \"{NONCE}\" ,\n \"encrypted\"\t:\"{encrypted}\" }} \r\n\t"),
        format!(r#"{{"encrypted":"{encrypted}","nonce":"AAECAwQFBgcICQo\u004c"}}"#),
        format!(r#"{{"\u0065ncrypted":"{encrypted}","nonce":"{NONCE}"}}"#),
        // As PHP's json_encode writes a slash.
        r#"{"encrypted":"PCC\/f+ff4H77Nci6k8VaGfqm4hbKWS8VVgDH+BBpo2FK85LyulZiAyQG6YE=","nonce":"AAECAwQFBgcICQoL"}"#
            .into(),
    ] {
        assert_eq!(native(&good), "ok", "{good}");
    }
}

#[test]
fn native_refuses_what_is_not_json() {
    let good = body(&sealed(40), NONCE);
    let with_tail = |tail: &str| format!("{good}{tail}");
    for bad in [
        "",
        " ",
        "nope",
        "{",
        "{}}",
        "{'encrypted':1}",
        "{\"encrypted\":}",
        "[1,]",
        "nul",
        "\"open",
        "{\"a\":01}",
        "{,}",
        "\u{feff}{}",
    ] {
        assert_eq!(native(bad), "invalid_json", "{bad:?}");
    }
    for tail in ["x", "{}", ",", "\0", "\u{feff}", "null"] {
        assert_eq!(native(with_tail(tail)), "invalid_json", "{tail:?}");
    }
    // Not UTF-8: inside a member's value, inside a name, and half a surrogate pair as an escape.
    for bad in [&b"{\"encrypted\":\"\xff\"}"[..], b"{\"\xc3\x28\":1}", b"{\"a\":\"\\ud800\"}", b"{\"a\":\"\x01\"}"] {
        assert_eq!(native(bad), "invalid_json", "{bad:?}");
    }
}

#[test]
fn native_refuses_other_shapes() {
    let encrypted = sealed(40);
    let good = body(&encrypted, NONCE);
    for bad in [
        "{}".into(),
        "[]".into(),
        "null".into(),
        "1".into(),
        "\"text\"".into(),
        format!(r#"["{encrypted}","{NONCE}"]"#),
        format!(r#"{{"encrypted":"{encrypted}"}}"#),
        format!(r#"{{"nonce":"{NONCE}"}}"#),
        format!(r#"{{"encrypted":"{encrypted}","nonce":"{NONCE}","id":"evt_1"}}"#),
        format!(r#"{{"encrypted":"{encrypted}","nonce":"{NONCE}","nonce":"{NONCE}"}}"#),
        format!(r#"{{"encrypted":"{encrypted}","encrypted":"{encrypted}","nonce":"{NONCE}"}}"#),
        format!(r#"{{"encrypted":"{encrypted}","\u006eonce":"{NONCE}","nonce":"{NONCE}"}}"#),
        format!(r#"{{"Encrypted":"{encrypted}","nonce":"{NONCE}"}}"#),
        format!(r#"{{"encrypted":["{encrypted}"],"nonce":"{NONCE}"}}"#),
        format!(r#"{{"encrypted":"{encrypted}","nonce":null}}"#),
        format!(r#"{{"encrypted":1,"nonce":"{NONCE}"}}"#),
        format!(r#"{{"encrypted":"{encrypted}","nonce":-1}}"#),
        format!(r#"{{"encrypted":{{"a":[1.5,true,{{}}]}},"nonce":"{NONCE}"}}"#),
        // Valid JSON, but something stands before the brace.
        format!(" {good}"),
        format!("\n{good}"),
    ] {
        assert_eq!(native(&bad), "invalid_envelope", "{bad}");
    }
}

#[test]
fn an_object_is_not_read_from_anything_else() {
    // Unlike into a derived struct, which takes a list for its fields.
    let read =
        |text: &str| serde_json::from_str::<json::Document<'_>>(text).map(drop).map_err(|error| error.to_string());
    assert_eq!(read(r#"{"encrypted":"","nonce":""}"#), Ok(()));
    for (other, what) in
        [(r#"["",""]"#, "sequence"), ("7", "integer `7`"), ("null", "null"), ("\"{}\"", "string \"{}\"")]
    {
        let error = read(other).unwrap_err();
        assert!(error.starts_with(&format!("invalid type: {what}, expected an object")), "{error}");
    }
    // What is in no JSON is no value.
    let bytes = serde::de::value::BytesDeserializer::<serde::de::value::Error>::new(b"{}");
    let error = <json::Value<'_> as serde::Deserialize<'_>>::deserialize(bytes).unwrap_err().to_string();
    assert_eq!(error, "invalid type: byte array, expected a value");
}

#[test]
fn native_depth_is_bounded() {
    let nested = |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert_eq!(native(nested(100)), "invalid_envelope");
    assert_eq!(native(nested(128)), "invalid_json");
    assert_eq!(native(nested(100_000)), "invalid_json");
    assert_eq!(native("[".repeat(200_000)), "invalid_json");
    assert_eq!(native(r#"{"a":"#.repeat(100_000)), "invalid_json");
}

#[test]
fn native_members_are_bounded() {
    let many = |count: usize| {
        let members: Vec<_> = (0..count).map(|n| format!(r#""m{n}":0"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    for count in [3, 32, 33, 10_000] {
        assert_eq!(native(many(count)), "invalid_envelope");
    }
}

#[test]
fn native_ciphertext_has_its_edges() {
    assert_eq!(native(body(&sealed(16), NONCE)), "ok");
    for len in [0, 1, 14, 15] {
        assert_eq!(native(body(&sealed(len), NONCE)), "invalid_ciphertext", "{len}");
    }
    let padded = sealed(40);
    let unpadded = sealed(42);
    for bad in [
        padded.trim_end_matches('=').to_owned(),
        format!("{padded}="),
        format!("{unpadded}===="),
        format!("{unpadded}\\n"),
        format!(" {unpadded}"),
        unpadded.replacen('p', "-", 1),
        unpadded.replacen('p', "_", 1),
        unpadded.replacen('p', "\u{e4}", 1),
        // The unused bits of the last symbol set.
        padded.replace("pQ==", "pR==").replace("paU=", "paV="),
    ] {
        assert_ne!(bad, padded);
        assert_eq!(native(body(&bad, NONCE)), "invalid_ciphertext", "{bad}");
    }
}

#[test]
fn native_nonce_is_12_bytes() {
    for bad in [
        "",
        "AAECAwQFBgcICQo=",
        "AAECAwQFBgcICQoLDA==",
        "AAECAwQFBgcICQoLDA0O",
        "AAECAwQFBgcICQ-_",
        "AAECAwQFBgcICQo\\n",
    ] {
        assert_eq!(native(body(&sealed(40), bad)), "invalid_nonce", "{bad}");
    }
    let body = body(&sealed(40), NONCE);
    let parsed = parse_native(body.as_bytes()).unwrap();
    assert_eq!(parsed.check_nonce_header(Some(NONCE.as_bytes())), Ok(()));
    for bad in [None, Some(&b""[..]), Some(b"AAECAwQFBgcICQoM"), Some(b"AAECAwQFBgcICQoL ")] {
        assert_eq!(parsed.check_nonce_header(bad), Err(EnvelopeError::InvalidNonce));
    }
}

#[test]
fn every_prefix_of_a_native_body_is_refused() {
    let good = body(&sealed(40), NONCE);
    for len in 0..good.len() {
        assert_eq!(native(&good.as_bytes()[..len]), "invalid_json", "{len}");
    }
}

#[test]
fn every_flipped_bit_of_a_native_body_is_refused_or_changes_what_is_opened() {
    let good = body(&sealed(40), NONCE);
    let parsed = parse_native(good.as_bytes()).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone().into_bytes();
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = parse_native(&bad) {
            // Another nonce or ciphertext: the AEAD refuses it.
            assert!(other.nonce() != parsed.nonce() || other.ciphertext() != parsed.ciphertext(), "{bit}");
        }
    }
}

// JWE.

/// A token with this header, everything else right.
fn token(header: &str) -> String {
    format!("{}..{NONCE}.AAAA.AAAAAAAAAAAAAAAAAAAAAA", URL_SAFE_NO_PAD.encode(header))
}

fn members(change: &[(&str, &str)]) -> String {
    let mut all = vec![
        ("alg", r#""dir""#),
        ("enc", r#""A256GCM""#),
        ("kid", r#""k1""#),
        ("jti", r#""evt_1""#),
        ("aud", r#""acme""#),
    ];
    for (name, value) in change {
        match all.iter_mut().find(|(own, _)| own == name) {
            Some(member) => member.1 = value,
            None => all.push((name, value)),
        }
    }
    let members: Vec<_> = all.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn golden_jwe() {
    let vectors = jwe_vectors();
    let golden = text(&vectors["token"]);
    let parsed = parse_jwe(golden.as_bytes(), &acme()).unwrap();
    assert_eq!(parsed.header().kid.as_str(), "k1");
    assert_eq!(parsed.header().jti.as_str(), "evt_1");
    assert_eq!(parsed.header().aud, acme());
    assert_eq!(parsed.header().iat, None);
    assert_eq!(parsed.iv().as_slice(), hex(&vectors["nonce_hex"]));
    let parts: Vec<_> = golden.split('.').collect();
    assert_eq!(parsed.protected(), parts[0]);
    assert_eq!(parsed.header().to_protected(), parts[0]);
    assert_eq!(parsed.ciphertext(), parts[3]);
    assert_eq!(URL_SAFE_NO_PAD.encode(parsed.tag()), parts[4]);
    assert!(matches!(Envelope::parse(golden.as_bytes(), &acme()), Ok(Envelope::Jwe(_))));
}

#[test]
fn golden_jwe_refusals() {
    let vectors = jwe_vectors();
    let refused = vectors["refused_at_ingest"].as_object().unwrap();
    assert_eq!(refused.len(), 12);
    for (name, token) in refused {
        assert_eq!(jwe(text(token)), "invalid_envelope", "{name}");
    }
    // These have the right shape; only the key can tell.
    for (name, token) in vectors["refused_at_open"].as_object().unwrap() {
        assert_eq!(jwe(text(token)), "ok", "{name}");
    }
}

#[test]
fn jwe_header_members() {
    let text_of = |len: usize| format!("\"{}\"", "x".repeat(len));
    for change in [
        &[("iat", "1700000000")][..],
        &[("iat", "0")],
        &[("typ", r#""JWE""#), ("cty", r#""application/json""#)],
        &[("x", r#"{"nested":[1,2.5,null]}"#)],
        &[("jti", r#""ä \u0041""#)],
        &[("jti", &text_of(256))],
        &[("kid", &text_of(64))],
    ] {
        assert_eq!(jwe(token(&members(change))), "ok", "{change:?}");
    }
    for change in [
        &[("iat", "-1")][..],
        &[("iat", "1.5")],
        &[("iat", "1e9")],
        &[("iat", r#""1700000000""#)],
        &[("iat", "null")],
        &[("iat", "18446744073709551616")],
        &[("alg", r#""DIR""#)],
        &[("alg", r#"["dir"]"#)],
        &[("enc", r#""A256GCM ""#)],
        &[("enc", "null")],
        &[("aud", r#"["acme"]"#)],
        &[("aud", r#""Acme""#)],
        &[("aud", r#""acme2""#)],
        &[("jti", r#""""#)],
        &[("jti", "1")],
        &[("jti", &text_of(257))],
        &[("kid", r#""""#)],
        &[("kid", r#""a b""#)],
        &[("kid", &text_of(65))],
        &[("crit", "[]")],
        &[("crit", "null")],
        &[("zip", r#""""#)],
    ] {
        assert_eq!(jwe(token(&members(change))), "invalid_envelope", "{change:?}");
    }
}

#[test]
fn jwe_header_is_one_object_with_each_member_once() {
    let good = members(&[]);
    assert_eq!(jwe(token(&good)), "ok");
    for bad in [
        good.replace("{", r#"{"alg":"dir","#),
        good.replace("{", r#"{"x":1,"x":1,"#),
        good.replace("{", r#"{"\u006bid":"k1","#),
        format!(" {good}"),
        format!("{good}x"),
        format!("[{good}]"),
        "{}".into(),
        String::new(),
    ] {
        assert_eq!(jwe(token(&bad)), "invalid_envelope", "{bad}");
    }
}

#[test]
fn jwe_header_length_has_its_edges() {
    // A header of `len` characters of base64url.
    let of_len = |len: usize| {
        let fill = len / 4 * 3 - members(&[("x", r#""""#)]).len();
        token(&members(&[("x", &format!("\"{}\"", "x".repeat(fill)))]))
    };
    assert_eq!(of_len(4096).find('.'), Some(4096));
    assert_eq!(jwe(of_len(4096)), "ok");
    assert_eq!(jwe(of_len(4100)), "invalid_envelope");
}

#[test]
fn jwe_parts_have_their_lengths() {
    let header = URL_SAFE_NO_PAD.encode(members(&[]));
    let of = |iv: &str, ciphertext: &str, tag: &str| format!("{header}..{iv}.{ciphertext}.{tag}");
    let tag = "AAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(jwe(of(NONCE, "AAAA", tag)), "ok");
    assert_eq!(jwe(of(NONCE, "", tag)), "ok", "an empty payload");
    for bad in [
        of("", "AAAA", tag),
        of("AAECAwQFBgcICQo", "AAAA", tag),
        of("AAECAwQFBgcICQoLDA", "AAAA", tag),
        of("AAECAwQFBgcICQo+", "AAAA", tag),
        of(NONCE, "A", tag),
        of(NONCE, "AB", tag),
        of(NONCE, "AA==", tag),
        of(NONCE, "A/AA", tag),
        of(NONCE, "AA\nA", tag),
        of(NONCE, "AA.A", tag),
        of(NONCE, "AAAA", ""),
        of(NONCE, "AAAA", "AAAAAAAAAAAAAAAAAAAAA"),
        of(NONCE, "AAAA", "AAAAAAAAAAAAAAAAAAAAAAA"),
        of(NONCE, "AAAA", "AAAAAAAAAAAAAAAAAAAAAB"),
        format!("{}\n", of(NONCE, "AAAA", tag)),
        format!(" {}", of(NONCE, "AAAA", tag)),
        format!("{}.", of(NONCE, "AAAA", tag)),
        format!("{header}.{NONCE}.AAAA.{tag}"),
        format!("{header}.AA.{NONCE}.AAAA.{tag}"),
        format!("..{NONCE}.AAAA.{tag}"),
    ] {
        assert_eq!(jwe(&bad), "invalid_envelope", "{bad}");
    }
}

#[test]
fn every_prefix_of_a_jwe_is_refused() {
    let vectors = jwe_vectors();
    let golden = text(&vectors["token"]).as_bytes();
    for len in 0..golden.len() {
        assert_eq!(jwe(&golden[..len]), "invalid_envelope", "{len}");
    }
}

#[test]
fn every_flipped_bit_of_a_jwe_is_refused_or_changes_what_is_opened() {
    let vectors = jwe_vectors();
    let golden = text(&vectors["token"]).as_bytes();
    let parsed = parse_jwe(golden, &acme()).unwrap();
    for bit in 0..golden.len() * 8 {
        let mut bad = golden.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = parse_jwe(&bad, &acme()) {
            let parts =
                |jwe: &Jwe<'_>| (jwe.protected().to_owned(), *jwe.iv(), jwe.ciphertext().to_owned(), *jwe.tag());
            assert_ne!(parts(&other), parts(&parsed), "{bit}");
        }
    }
}

// Both.

#[test]
fn formats_are_decided_by_content_and_have_names() {
    let native = body(&sealed(40), NONCE);
    assert_eq!(Envelope::parse(native.as_bytes(), &acme()).unwrap().format(), Format::Native);
    assert!(Envelope::parse_as(Format::Jwe, native.as_bytes(), &acme()).is_err());
    assert!(Envelope::parse_as(Format::Native, token(&members(&[])).as_bytes(), &acme()).is_err());
    assert_eq!(serde_json::to_string(&[Format::Native, Format::Jwe]).unwrap(), r#"["native","jwe"]"#);
    assert_eq!(Format::Native.content_type(), "application/json");
    assert_eq!(Format::Jwe.content_type(), "application/jose");
}

#[test]
fn debug_shows_no_ciphertext() {
    let body = body(&sealed(42), NONCE);
    assert_eq!(format!("{:?}", parse_native(body.as_bytes()).unwrap()), "Native(56 bytes of base64)");
}

proptest! {
    #[test]
    fn parsers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::parse(&bytes, &acme());
        let _ = parse_native(&bytes);
        let _ = parse_jwe(&bytes, &acme());
    }

    #[test]
    fn json_like_text_never_panics_and_agrees_with_a_json_parser(
        text in r#"(\{|\[|"|\\|:|,|\}|\]|[0-9.eE+-]|null|true|encrypted|nonce|\\u[0-9a-f]{4}| ){0,40}"#,
    ) {
        let is_json = serde_json::from_str::<Value>(&text).is_ok();
        prop_assert_eq!(native(&text) != "invalid_json", is_json);
    }

    #[test]
    fn native_round_trip(
        sealed in proptest::collection::vec(any::<u8>(), TAG_LEN..400),
        nonce in any::<[u8; NONCE_LEN]>(),
        space in "[ \t\r\n]{0,4}",
        swapped in any::<bool>(),
    ) {
        let members = [("encrypted", STANDARD.encode(&sealed)), ("nonce", STANDARD.encode(nonce))]
            .map(|(name, value)| format!("\"{name}\"{space}:{space}\"{value}\""));
        let [one, two] = if swapped { [&members[1], &members[0]] } else { [&members[0], &members[1]] };
        let body = format!("{{{space}{one}{space},{space}{two}{space}}}{space}");
        let parsed = parse_native(body.as_bytes()).unwrap();
        prop_assert_eq!(parsed.nonce(), &nonce);
        prop_assert_eq!(STANDARD.decode(parsed.ciphertext()).unwrap(), sealed);
    }

    #[test]
    fn jwe_round_trip(
        kid in "[A-Za-z0-9._-]{1,64}",
        jti in "\\PC{1,60}",
        aud in "[a-z0-9][a-z0-9_-]{0,63}",
        iat in any::<Option<u64>>(),
        iv in any::<[u8; NONCE_LEN]>(),
        ciphertext in proptest::collection::vec(any::<u8>(), 0..300),
        tag in any::<[u8; TAG_LEN]>(),
    ) {
        let header = JweHeader {
            kid: kid.parse().unwrap(),
            jti: EventId::new(jti).unwrap(),
            aud: aud.parse().unwrap(),
            iat,
        };
        let protected = header.to_protected();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let token = format!("{protected}..{}.{}.{}", text(&iv), text(&ciphertext), text(&tag));
        let parsed = parse_jwe(token.as_bytes(), &header.aud).unwrap();
        prop_assert_eq!(parsed.header(), &header);
        prop_assert_eq!(parsed.protected(), protected);
        prop_assert_eq!((parsed.iv(), parsed.tag()), (&iv, &tag));
        prop_assert_eq!(URL_SAFE_NO_PAD.decode(parsed.ciphertext()).unwrap(), ciphertext);
    }
}
