//! Texts of bytes whose number is known.

use data_encoding::Encoding;

/// The bytes of a text, if there are exactly so many. The encoding is one without padding.
pub(crate) fn exactly<const N: usize>(encoding: &Encoding, text: &[u8]) -> Option<[u8; N]> {
    // The length first: `decode_mut` panics when the output has another than the text's.
    if encoding.decode_len(text.len()) != Ok(N) {
        return None;
    }
    let mut bytes = [0; N];
    encoding.decode_mut(text, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

    use super::*;

    #[test]
    fn a_text_has_exactly_so_many_bytes() {
        assert_eq!(exactly(&HEXLOWER, b"00ff"), Some([0, 255]));
        assert_eq!(exactly(&BASE64URL_NOPAD, b"_w"), Some([255]));
        assert_eq!(exactly::<0>(&HEXLOWER, b""), Some([]));
        for text in [&b""[..], b"0", b"00", b"00f", b"00ff0", b"00ff00", b"00FF", b"00fg", b"00f\xff"] {
            assert_eq!(exactly::<2>(&HEXLOWER, text), None, "{text:?}");
        }
        for text in [&b""[..], b"_", b"_x", b"_w=", b"_w==", b"__8"] {
            assert_eq!(exactly::<1>(&BASE64URL_NOPAD, text), None, "{text:?}");
        }
    }
}
