//! Counting the members of JSON objects by reading the text, with nothing of a JSON library.

/// How many members the outermost object of a valid JSON text has, repeated names counted again.
pub(super) fn outer_members(text: &[u8]) -> usize {
    members(text, Some(1))
}

/// How many members all objects of a valid JSON text have together.
pub(super) fn all_members(text: &[u8]) -> usize {
    members(text, None)
}

fn members(text: &[u8], wanted_depth: Option<usize>) -> usize {
    let (mut depth, mut in_string, mut escaped, mut count) = (0_usize, false, false, 0);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            // Outside of strings a colon stands between a name and its value and nowhere else.
            (false, b':') => count += usize::from(wanted_depth.is_none_or(|wanted| depth == wanted)),
            _ => {}
        }
    }
    count
}
