//! Idempotency keys and the fingerprint that tells whether two bodies say the same (I3).

use serde_json::{Number, Value};
use sha2::{Digest, Sha256};

/// The most characters of a key.
const MAX_KEY_CHARS: usize = 255;

/// A client's name for one request: 1 to 255 characters without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(String);

/// Why a text is no [`IdempotencyKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing there.
    #[error("the header Idempotency-Key is missing or empty")]
    Missing,
    /// Too long.
    #[error("the header Idempotency-Key has more than 255 characters")]
    TooLong,
    /// Not storable or not printable.
    #[error("the header Idempotency-Key must be printable UTF-8")]
    Unprintable,
}

impl IdempotencyKey {
    /// Parses the header's value.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(bytes).map_err(|_| KeyError::Unprintable)?.trim_matches(' ');
        if text.is_empty() {
            return Err(KeyError::Missing);
        }
        if text.chars().any(char::is_control) {
            return Err(KeyError::Unprintable);
        }
        if text.chars().count() > MAX_KEY_CHARS {
            return Err(KeyError::TooLong);
        }
        Ok(Self(text.to_owned()))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// SHA-256 of a body's canonical form: formatting, the order of members and the spelling of numbers don't matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a parsed body.
    pub fn of(body: &Value) -> Self {
        let mut canonical = String::new();
        write_canonical(body, &mut canonical);
        Self(Sha256::digest(canonical.as_bytes()).into())
    }

    /// The hash, for SQL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The integer that a number is, however it was spelled: `2`, `2.0` and `2e0` are one. `None` for fractions and for
/// what a double can't hold exactly.
pub fn integer(number: &Number) -> Option<i128> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(value) = number.as_i64() {
        return Some(value.into());
    }
    if let Some(value) = number.as_u64() {
        return Some(value.into());
    }
    let value = number.as_f64()?;
    // In range by the check before it.
    #[expect(clippy::cast_possible_truncation, reason = "an integer below 2^53")]
    (value.fract() == 0.0 && value.abs() <= EXACT).then_some(value as i128)
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
        Value::Number(number) => match integer(number) {
            Some(value) => out.push_str(&value.to_string()),
            None => out.push_str(&number.to_string()),
        },
        Value::String(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| name.as_str());
            out.push('{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_canonical(member, out);
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(json: &str) -> Fingerprint {
        Fingerprint::of(&serde_json::from_str(json).expect("JSON"))
    }

    #[test]
    fn formatting_order_and_the_spelling_of_numbers_do_not_matter() {
        let plain = of(r#"{"a":{"x":1,"y":[1,2]},"b":"é"}"#);
        for same in [r#"{ "b" : "é", "a" : {"y":[1, 2], "x":1} }"#, r#"{"b":"\u00e9","a":{"y":[1.0,2e0],"x":10e-1}}"#]
        {
            assert_eq!(of(same), plain, "{same}");
        }
    }

    #[test]
    fn what_differs_has_another_fingerprint() {
        let plain = of(r#"{"a":[1,2]}"#);
        for other in [r#"{"a":[2,1]}"#, r#"{"a":["1",2]}"#, r#"{"a":[1,2],"b":null}"#, r#"{"a":[12]}"#, r#"{"a,[1":2}"#]
        {
            assert_ne!(of(other), plain, "{other}");
        }
        assert_ne!(of(r#"{"a":"1,\"b\":2"}"#), of(r#"{"a":"1","b":2}"#));
    }

    #[test]
    fn keys_are_printable_and_bounded() {
        let parse = |text: &str| IdempotencyKey::parse(text.as_bytes());
        assert_eq!(parse(" 8e03978e-40d5 ").as_ref().map(IdempotencyKey::as_str), Ok("8e03978e-40d5"));
        assert_eq!(parse("  "), Err(KeyError::Missing));
        assert_eq!(parse("a\tb"), Err(KeyError::Unprintable));
        assert_eq!(IdempotencyKey::parse(&[0xff]), Err(KeyError::Unprintable));
        assert!(parse(&"ü".repeat(255)).is_ok());
        assert_eq!(parse(&"x".repeat(256)), Err(KeyError::TooLong));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn pretty_and_compact_are_the_same(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).expect("JSON");
            prop_assert_eq!(of(&pretty), of(&value.to_string()));
        }
    }
}
