//! Is a text canonical base64? Answered without decoding it, at the speed of memory.
//!
//! Canonical means that a decoder and an encoder give the same text back: only symbols of the one alphabet, padding
//! exactly where it belongs (standard) or nowhere (url), and zeroes in the bits that the last symbol does not use. So
//! nobody can alter a body and keep its meaning. Meant for public text: its time depends on the content.

/// The decoded length of a canonical text of the standard alphabet with padding; `None` if it is not canonical.
pub(super) fn standard_len(text: &[u8]) -> Option<usize> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let symbols = match text {
        [symbols @ .., b'=', b'='] => symbols,
        [symbols @ .., b'='] => symbols,
        symbols => symbols,
    };
    // Padding is there to fill the last group of four, so this many symbols remain and no others.
    canonical_len(symbols, is_standard_symbol)
}

/// The decoded length of a canonical text of the URL-safe alphabet without padding; `None` if it is not canonical.
pub(super) fn url_len(text: &[u8]) -> Option<usize> {
    canonical_len(text, is_url_symbol)
}

/// Whether a byte is a symbol of the URL-safe alphabet.
pub(super) fn is_url_symbol(byte: u8) -> bool {
    is_alphanumeric(byte) | (byte == b'-') | (byte == b'_')
}

fn is_standard_symbol(byte: u8) -> bool {
    is_alphanumeric(byte) | (byte == b'+') | (byte == b'/')
}

/// `|` and wrapping arithmetic instead of `||` and ranges: without branches the compiler checks many bytes at once.
fn is_alphanumeric(byte: u8) -> bool {
    ((byte | 0x20).wrapping_sub(b'a') < 26) | (byte.wrapping_sub(b'0') < 10)
}

fn canonical_len(symbols: &[u8], is_symbol: impl Fn(u8) -> bool) -> Option<usize> {
    if !symbols.iter().fold(true, |all, &byte| all & is_symbol(byte)) {
        return None;
    }
    let whole = symbols.len() / 4 * 3;
    match symbols {
        [] => Some(0),
        // The last symbol carries 4 or 2 bits that belong to no byte.
        [.., last] => match symbols.len() % 4 {
            0 => Some(whole),
            2 if value(*last) & 0b1111 == 0 => Some(whole + 1),
            3 if value(*last) & 0b11 == 0 => Some(whole + 2),
            _ => None,
        },
    }
}

/// The six bits of a symbol of either alphabet.
fn value(symbol: u8) -> u8 {
    match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' | b'-' => 62,
        _ => 63,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    fn check(text: &[u8]) {
        assert_eq!(standard_len(text), STANDARD.decode(text).ok().map(|bytes| bytes.len()), "{text:?} standard");
        assert_eq!(url_len(text), URL_SAFE_NO_PAD.decode(text).ok().map(|bytes| bytes.len()), "{text:?} url");
    }

    #[test]
    fn agrees_with_a_decoder_on_every_last_symbol() {
        for text in
            ["", "=", "==", "===", "====", "A", "A=", "A==", "A===", "AAA=A", "AA=A", "AAAA=", "AAAA====", "A=A="]
        {
            check(text.as_bytes());
        }
        for byte in 0..=u8::MAX {
            for len in 0..9 {
                for padding in ["", "=", "=="] {
                    let mut text = vec![b'A'; len];
                    text.push(byte);
                    text.extend_from_slice(padding.as_bytes());
                    check(&text);
                }
            }
        }
    }

    #[test]
    fn sees_one_wrong_byte_anywhere() {
        let good = vec![b'A'; 400];
        assert_eq!(standard_len(&good), Some(300));
        for position in 0..good.len() {
            for wrong in [b' ', b'\n', b'.', b'=', 0, 0xff, b'A' + 0x80, b'@', b'[', b'`', b'{'] {
                let mut bad = good.clone();
                bad[position] = wrong;
                check(&bad);
                assert_eq!(url_len(&bad), None);
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_decoder(text in "[A-D+/_=-]{0,12}|[A-Za-z0-9+/]{0,70}={0,3}|[A-Za-z0-9_-]{0,70}|\\PC{0,20}") {
            check(text.as_bytes());
        }

        #[test]
        fn accepts_what_an_encoder_writes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(standard_len(STANDARD.encode(&bytes).as_bytes()), Some(bytes.len()));
            prop_assert_eq!(url_len(URL_SAFE_NO_PAD.encode(&bytes).as_bytes()), Some(bytes.len()));
        }
    }
}
