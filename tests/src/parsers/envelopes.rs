//! The two envelopes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::envelope::{Envelope, EnvelopeError, Format, JweHeader, parse_jwe, parse_native};
use common::id::{EventId, SourceId};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use serde_json::Value;

use super::json::outer_members;
use super::{Judged, Target, base64, jwe_vectors, native_vectors, texts};

fn audience() -> SourceId {
    "acme".parse().expect("a source's name")
}

pub(super) const NATIVE: Target = Target {
    name: "native",
    check: native,
    seeds: || {
        let vectors = native_vectors();
        let cases = vectors["signature_cases"].as_array().into_iter().flatten();
        let bodies = cases.filter_map(|case| HEXLOWER.decode(case["body_hex"].as_str()?.as_bytes()).ok());
        let by_hand = [
            r#"{ "nonce" : "AAECAwQFBgcICQoL" , "encrypted" : "PCC/f+ff4H77Nci6k8VaGfqm4hbKWS8VVgDH+BBpo2FK85LyulZiAyQG6YE=" }"#,
            r#"{"encrypted":"pKV7ZbdR7LkbZlH1yMmb0A==","nonce":"AAECAwQFBgcICQo\u004c"}"#,
            r#"{"encrypted":["x"],"nonce":{"encrypted":"","nonce":7}}"#,
            r#"[{"encrypted":"pKV7ZbdR7LkbZlH1yMmb0A==","nonce":"AAECAwQFBgcICQoL"}]"#,
        ];
        texts(&vectors["envelope"]["body_utf8"])
            .into_iter()
            .chain(bodies)
            .chain(by_hand.map(|text| text.into()))
            .collect()
    },
    pieces: &[
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\\u0065",
        "\"encrypted\"",
        "\"nonce\"",
        "\"x\"",
        "null",
        "1e9",
        " ",
        "=",
        "\n",
        "AAAA",
        "\"encrypted\":\"\",",
        "\u{feff}",
    ],
};

fn native(input: &[u8]) -> Judged {
    let parsed = parse_native(input);
    let decided = Envelope::parse(input, &audience());
    if let Ok(Envelope::Native(decided)) = &decided {
        assert!(parsed.as_ref().is_ok_and(|parsed| parsed.ciphertext() == decided.ciphertext()));
    }
    let value = serde_json::from_slice::<Value>(input);
    assert_eq!(
        value.is_err(),
        matches!(parsed, Err(EnvelopeError::InvalidJson)),
        "JSON to one parser and not to the other"
    );
    let parts = value.ok().and_then(|value| native_parts(input, &value));
    let found = parsed.as_ref().ok().map(|parsed| {
        let sealed = STANDARD.decode(parsed.ciphertext()).expect("it was found to be base64");
        (sealed, parsed.nonce().to_vec())
    });
    assert_eq!(found, parts);
    let (Ok(parsed), Some((sealed, nonce))) = (parsed, parts) else { return Judged::Refused };
    let nonce_text = BASE64.encode(&nonce);
    assert!(parsed.check_nonce_header(Some(nonce_text.as_bytes())).is_ok() && parsed.check_nonce_header(None).is_err());
    let again = format!(r#"{{"nonce":"{nonce_text}","encrypted":"{}"}}"#, BASE64.encode(&sealed));
    let again = parse_native(again.as_bytes()).expect("what it says is an envelope again");
    assert_eq!((again.ciphertext(), again.nonce()), (parsed.ciphertext(), parsed.nonce()));
    Judged::Accepted
}

/// Ciphertext with its tag, and nonce: of an object with these two texts, each once, and nothing else.
fn native_parts(input: &[u8], value: &Value) -> Option<(Vec<u8>, Vec<u8>)> {
    let members = value.as_object().filter(|members| members.len() == 2)?;
    let decoded = |name: &str| base64(members.get(name)?.as_str()?.as_bytes());
    let (sealed, nonce) = (decoded("encrypted")?, decoded("nonce")?);
    let whole = input.first() == Some(&b'{') && outer_members(input) == 2;
    (whole && sealed.len() >= 16 && nonce.len() == 12).then_some((sealed, nonce))
}

pub(super) const JWE: Target = Target {
    name: "jwe",
    check: jwe,
    seeds: || {
        let vectors = jwe_vectors();
        let tokens = [&vectors["token"], &vectors["refused_at_ingest"], &vectors["refused_at_open"]];
        let by_hand = [
            r#"{"alg":"dir","enc":"A256GCM","kid":"k1","jti":"e","aud":"acme"}"#,
            r#"{"iat":1700000000,"x":{"alg":"none"},"enc":"A256GCM","kid":"k1","jti":"\u00e4","aud":"acme","alg":"dir"} "#,
        ];
        let by_hand = by_hand.map(|header| {
            let header = BASE64URL_NOPAD.encode(header.as_bytes());
            format!("{header}..AAECAwQFBgcICQoL.AAAA.AAAAAAAAAAAAAAAAAAAAAA").into_bytes()
        });
        tokens.into_iter().flat_map(texts).chain(by_hand).collect()
    },
    pieces: &[".", "..", "=", "A", "AAAA", "_", "-", "+", "eyJhbGciOiJkaXIi", " ", "\n"],
};

fn jwe(input: &[u8]) -> Judged {
    // A fuzzer does not get through base64: what is no token is also tried as the text of a header.
    let wrapped = BASE64URL_NOPAD.encode(input) + "..AAECAwQFBgcICQoL.AAAA.AAAAAAAAAAAAAAAAAAAAAA";
    let (whole, header) = (token(input), token(wrapped.as_bytes()));
    Judged::accepted_if([whole, header].contains(&Judged::Accepted))
}

fn token(input: &[u8]) -> Judged {
    let parsed = parse_jwe(input, &audience());
    if let Ok(decided) = Envelope::parse(input, &audience())
        && decided.format() == Format::Jwe
    {
        assert!(parsed.is_ok());
    }
    let parts = jwe_parts(input);
    let found = parsed.as_ref().ok().map(|parsed| {
        let ciphertext = BASE64URL_NOPAD.decode(parsed.ciphertext().as_bytes()).expect("it was found to be base64url");
        (parsed.header().clone(), parsed.iv().to_vec(), ciphertext, parsed.tag().to_vec())
    });
    assert_eq!(found, parts);
    let (Ok(parsed), Some((header, iv, ciphertext, tag))) = (parsed, parts) else { return Judged::Refused };
    let part = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let same = format!("{}..{}.{}.{}", parsed.protected(), part(&iv), part(&ciphertext), part(&tag));
    assert_eq!(same.as_bytes(), input, "its parts are the whole of it");
    let ours = format!("{}..{}..{}", header.to_protected(), part(&iv), part(&tag));
    let again = parse_jwe(ours.as_bytes(), &audience()).expect("what it says is a header again");
    assert_eq!(again.header(), &header);
    Judged::Accepted
}

type JweParts = (JweHeader, Vec<u8>, Vec<u8>, Vec<u8>);

fn jwe_parts(input: &[u8]) -> Option<JweParts> {
    let parts: Vec<&str> = std::str::from_utf8(input).ok()?.split('.').collect();
    let [protected, "", iv, ciphertext, tag] = parts[..] else { return None };
    let decoded = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    let (iv, ciphertext, tag) = (decoded(iv)?, decoded(ciphertext)?, decoded(tag)?);
    let json = decoded(protected)?;
    let header = jwe_header(&json)?;
    let lengths = protected.len() <= 4096 && iv.len() == 12 && tag.len() == 16;
    lengths.then_some((header, iv, ciphertext, tag))
}

fn jwe_header(json: &[u8]) -> Option<JweHeader> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let members = value.as_object()?;
    let once = json.first() == Some(&b'{') && outer_members(json) == members.len() && members.len() <= 32;
    let text = |name: &str| members.get(name)?.as_str();
    let fixed = text("alg") == Some("dir") && text("enc") == Some("A256GCM") && text("aud") == Some("acme");
    let kid = text("kid").filter(|kid| {
        (1..=64).contains(&kid.len()) && kid.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    })?;
    let jti = text("jti").filter(|jti| (1..=256).contains(&jti.len()))?;
    let iat = members.get("iat").map(Value::as_u64);
    if !once || !fixed || members.contains_key("crit") || members.contains_key("zip") || iat == Some(None) {
        return None;
    }
    Some(JweHeader { kid: kid.parse().ok()?, jti: EventId::new(jti).ok()?, aud: audience(), iat: iat.flatten() })
}
