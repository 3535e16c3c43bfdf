//! Looking for what must not be there: as it is, and in every encoding in which it could lie hidden.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use data_encoding::{HEXLOWER, HEXUPPER};
use memchr::memmem;

/// A text, or a key's bytes, with all the forms in which it is looked for.
#[derive(Debug, Clone)]
pub struct Canary {
    text: String,
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Canary {
    /// A text of at least 12 bytes: a shorter one would be found by chance.
    pub fn new(text: &str) -> Self {
        Self::of(text, text.as_bytes())
    }

    /// The bytes of something that is called so.
    pub fn of(name: &str, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 12, "{name:?} is too short to look for");
        let listed = format!("{bytes:?}");
        let mut forms = vec![
            ("plain", bytes.to_vec()),
            ("hex", HEXLOWER.encode(bytes).into_bytes()),
            ("hex in capitals", HEXUPPER.encode(bytes).into_bytes()),
            ("a list of numbers", listed.trim_matches(['[', ']']).as_bytes().to_vec()),
            ("escaped", bytes.escape_ascii().to_string().into_bytes()),
        ];
        for (name, engine) in [("base64", &STANDARD_NO_PAD), ("base64url", &URL_SAFE_NO_PAD)] {
            forms.extend((0..3).map(|alignment| (name, middle(engine.encode(shifted(bytes, alignment)), alignment))));
        }
        Self { text: name.to_owned(), forms }
    }

    /// The text, or what the bytes are called.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// In which form the text lies in `bytes`, if it does.
    pub fn find(&self, bytes: &[u8]) -> Option<&'static str> {
        self.forms.iter().find(|(_, form)| contains(bytes, form)).map(|(name, _)| *name)
    }
}

/// The text behind as many bytes as move it to the next alignment.
fn shifted(bytes: &[u8], alignment: usize) -> Vec<u8> {
    [&[0; 2][..alignment], bytes].concat()
}

/// What of the encoding depends on the text alone: not on the bytes before it, nor on what follows.
fn middle(encoded: String, alignment: usize) -> Vec<u8> {
    // The first characters hold bits of what comes before, the last one may hold bits of what follows.
    let begin = [0, 2, 3][alignment];
    encoded.as_bytes()[begin..encoded.len() - 1].to_vec()
}

fn contains(bytes: &[u8], form: &[u8]) -> bool {
    memmem::find(bytes, form).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    const TEXT: &str = "canary~~~ÿÿÿ-0123456789";

    #[test]
    fn is_found_at_every_place_in_every_form() {
        let canary = Canary::new(TEXT);
        for before in 0..7 {
            for after in 0..4 {
                let bytes = [&b"xxxxxxx"[..before], TEXT.as_bytes(), &b"yyyy"[..after]].concat();
                assert_eq!(canary.find(&bytes), Some("plain"));
                assert_eq!(canary.find(STANDARD.encode(&bytes).as_bytes()), Some("base64"), "{before} {after}");
                assert_eq!(canary.find(URL_SAFE.encode(&bytes).as_bytes()), Some("base64url"), "{before} {after}");
                assert_eq!(canary.find(HEXLOWER.encode(&bytes).as_bytes()), Some("hex"));
                assert_eq!(canary.find(HEXUPPER.encode(&bytes).as_bytes()), Some("hex in capitals"));
                assert_eq!(canary.find(format!("{bytes:?}").as_bytes()), Some("a list of numbers"));
                assert_eq!(canary.find(bytes.escape_ascii().to_string().as_bytes()), Some("escaped"));
            }
        }
    }

    #[test]
    fn is_not_found_where_it_is_not() {
        let canary = Canary::new(TEXT);
        assert_eq!(canary.find(b""), None);
        assert_eq!(canary.find(&TEXT.as_bytes()[1..]), None);
        assert_eq!(canary.find(STANDARD.encode([0xa5; 600]).as_bytes()), None);
    }
}
