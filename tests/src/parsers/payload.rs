//! Where an event's id is found in its payload.

use processor::event::{Found, Pointer, find};
use serde_json::Value;

use super::json::all_members;
use super::{Judged, Target};

/// Nested deeper, a text is JSON to one reader and not to another: what is passed over may be nested at will.
const DEPTH_MAX: usize = 100;

pub(super) const EVENT_ID: Target = Target {
    name: "event_id",
    check: event_id,
    seeds: || {
        let texts = [
            "/id\n{\"id\":\"e1\",\"note\":[1,2,{\"id\":2}]}",
            "/data/id\n{\"data\":{\"id\":7,\"x\":null},\"id\":true}",
            "/0/a~1b\n[{\"a/b\":\"\\u00e9\"},-1]",
            "/id\n{\"id\":\"a\",\"id\":\"b\"}",
            "/m~0n\n{\"m~n\":18446744073709551615}",
            "/id\nno json",
            "id\n{}",
            "/~2\n{}",
        ];
        texts.map(|text| text.as_bytes().to_vec()).into()
    },
    pieces: &[
        "/", "~0", "~1", "~", "\n", "{", "}", "[", "]", "\"id\":", ",", "0", "\"", "\\u0064", "1.5", "-1", "null",
    ],
};

/// A pointer, a line's end, and a payload.
fn event_id(input: &[u8]) -> Judged {
    let (pointer, json) = input.split_at(input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len()));
    let json = json.strip_prefix(b"\n").unwrap_or_default();
    let Ok(text) = std::str::from_utf8(pointer) else { return Judged::Refused };
    let parsed = text.parse::<Pointer>();
    let begins = text.is_empty() || text.starts_with('/');
    let mut escapes = text.split('~').skip(1);
    assert_eq!(parsed.is_ok(), begins && escapes.all(|rest| rest.starts_with(['0', '1'])), "{text}");
    let Ok(pointer) = parsed else { return Judged::Refused };
    let found = find(json, &pointer);
    let usable = matches!(found, Found::Text(_) | Found::Integer(_));
    let Ok(value) = serde_json::from_slice::<Value>(json) else {
        // A reader that passes over what it does not need may take what another refuses there, but never outside of it.
        return Judged::accepted_if(usable);
    };
    // With a name given twice, the library's own pointer would follow the last.
    if members(&value, DEPTH_MAX) == Some(all_members(json)) {
        let expected = match value.pointer(text) {
            _ if text.is_empty() => Found::Missing,
            None => Found::Missing,
            Some(Value::String(text)) => Found::Text(text.clone()),
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Found::Integer(number.to_string()),
            Some(_) => Found::Unusable,
        };
        assert!(found == expected, "{found:?} instead of {expected:?}");
    }
    Judged::accepted_if(usable)
}

/// How many members all objects of a value have together, if it is not nested too deep.
fn members(value: &Value, depth_left: usize) -> Option<usize> {
    let below = depth_left.checked_sub(1)?;
    match value {
        Value::Array(elements) => elements.iter().map(|element| members(element, below)).sum(),
        Value::Object(entries) => {
            let inside: Option<usize> = entries.values().map(|value| members(value, below)).sum();
            Some(entries.len() + inside?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(0),
    }
}
