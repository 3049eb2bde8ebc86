//! What each test token makes the gateway do. Pure: text in, script out.

/// The longest delay that `tok_slow_MS` may ask for, and the longest hold, in milliseconds.
pub const LONGEST_DELAY_MS: u64 = 120_000;
/// The most failures that `tok_fail_N` may ask for.
pub const MOST_FAILURES: u32 = 1_000;

/// What happens to one operation before and after its decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Script {
    /// Answer 500 this many times for a key, without an effect.
    pub failures: u32,
    /// Wait this long before the effect, in milliseconds.
    pub delay_ms: u64,
    /// Say no: decline an authorization, refuse a capture.
    pub refuse: bool,
    /// Take effect, but keep the first call of a key waiting for its answer.
    pub hang: bool,
    /// Wait for the order's release before the effect.
    pub held: bool,
}

/// What a payment method does when it is authorized and later captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PaymentMethod {
    /// The authorization's script.
    pub authorize: Script,
    /// The capture's script.
    pub capture: Script,
}

/// A token that can't be used; both are permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    /// No such test token.
    Unknown,
    /// `tok_gateway_bad`: always answered 400.
    AlwaysBad,
}

impl PaymentMethod {
    /// The behaviour behind a token.
    pub fn parse(token: &str) -> Result<Self, BadToken> {
        let name = token.strip_prefix("tok_").ok_or(BadToken::Unknown)?;
        if name == "gateway_bad" {
            return Err(BadToken::AlwaysBad);
        }
        if name == "declined" {
            return Ok(Self { authorize: Script { refuse: true, ..Script::default() }, ..Self::default() });
        }
        if let Some(script) = name.strip_prefix("capture_").and_then(Script::parse_capture) {
            return Ok(Self { capture: script, ..Self::default() });
        }
        Script::parse(name).map(|authorize| Self { authorize, ..Self::default() }).ok_or(BadToken::Unknown)
    }
}

impl Script {
    fn parse(name: &str) -> Option<Self> {
        let script = match name {
            "visa" => Self::default(),
            "slow" => Self { delay_ms: 3_000, ..Self::default() },
            "timeout" => Self { hang: true, ..Self::default() },
            "held" => Self { held: true, ..Self::default() },
            _ => match name.rsplit_once('_')? {
                ("slow", ms) => Self { delay_ms: at_most(ms, LONGEST_DELAY_MS)?, ..Self::default() },
                ("fail", times) => {
                    let failures = at_most(times, u64::from(MOST_FAILURES))?;
                    Self { failures: u32::try_from(failures).ok()?, ..Self::default() }
                }
                _ => return None,
            },
        };
        Some(script)
    }

    fn parse_capture(name: &str) -> Option<Self> {
        match name {
            "refused" => Some(Self { refuse: true, ..Self::default() }),
            "visa" => None,
            _ => Self::parse(name),
        }
    }
}

fn at_most(digits: &str, limit: u64) -> Option<u64> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|number| plain && *number <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_token_has_its_script() {
        let scripts = [
            ("slow", Script { delay_ms: 3_000, ..Script::default() }),
            ("slow_500", Script { delay_ms: 500, ..Script::default() }),
            ("timeout", Script { hang: true, ..Script::default() }),
            ("held", Script { held: true, ..Script::default() }),
            ("fail_2", Script { failures: 2, ..Script::default() }),
        ];
        let refuse = Script { refuse: true, ..Script::default() };
        let plain = Script::default();
        let of = |token: &str| PaymentMethod::parse(token).map(|method| (method.authorize, method.capture));
        for (name, script) in scripts {
            assert_eq!(of(&format!("tok_{name}")), Ok((script, plain)), "{name}");
            assert_eq!(of(&format!("tok_capture_{name}")), Ok((plain, script)), "{name}");
        }
        assert_eq!(of("tok_visa"), Ok((plain, plain)));
        assert_eq!(of("tok_declined"), Ok((refuse, plain)));
        assert_eq!(of("tok_capture_refused"), Ok((plain, refuse)));
    }

    #[test]
    fn other_tokens_are_refused() {
        assert_eq!(PaymentMethod::parse("tok_gateway_bad"), Err(BadToken::AlwaysBad));
        for token in [
            "",
            "visa",
            "tok_",
            "tok_fail",
            "tok_fail_",
            "tok_fail_-1",
            "tok_fail_+1",
            "tok_fail_1001",
            "tok_slow_999999",
            "tok_capture_visa",
            "tok_VISA",
        ] {
            assert_eq!(PaymentMethod::parse(token), Err(BadToken::Unknown), "{token}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in ".{0,40}|tok_[a-z_0-9]{0,30}") {
            let _ = PaymentMethod::parse(&text);
        }
    }
}
