//! The body of `POST /orders`: parsed by hand, so that every bad field is told at once, each with its JSON pointer.

use std::collections::HashSet;

use contracts::Sku;
use serde_json::{Map, Value};
use service::problem::{FieldError, Pointer};
use utoipa::ToSchema;

use crate::domain::{LineProblem, PricingError, RequestedLine, integer};
use crate::placing::PaymentToken;

/// The most lines of an order.
const MAX_LINES: usize = 100;

/// The most of one SKU.
const MAX_QUANTITY: i128 = 1_000;

/// The longest mail address (RFC 5321, with its path's brackets).
const MAX_EMAIL_CHARS: usize = 254;

/// The longest payment token.
const MAX_TOKEN_CHARS: usize = 128;

/// The most errors that one answer tells.
const MAX_ERRORS: usize = 50;

/// An order as a client wants it.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct PlaceOrder {
    /// Whom it is for.
    pub customer: NewCustomer,
    /// What; each SKU once.
    #[schema(min_items = 1, max_items = 100, value_type = Vec<NewLine>)]
    pub lines: Vec<RequestedLine>,
    /// The payment provider's token; never a card number.
    #[schema(value_type = String, example = "tok_visa", min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9._:-]+$")]
    pub payment_method: PaymentToken,
}

/// Whom an order is for.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct NewCustomer {
    /// Where mails go.
    #[schema(format = Email, example = "ada@example.com", max_length = 254)]
    pub email: String,
    /// E.164.
    #[schema(example = "+15550100", pattern = r"^\+[1-9][0-9]{6,14}$")]
    pub phone: Option<String>,
}

/// One line of an order.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the interface; parsed into a RequestedLine")]
pub struct NewLine {
    /// Stock keeping unit, as `GET /products` tells it.
    #[schema(example = "SKU-1", min_length = 1, max_length = 64)]
    sku: String,
    /// How many.
    #[schema(example = 2, minimum = 1, maximum = 1000)]
    quantity: u32,
}

/// Parses a body, or tells everything that is wrong with it.
pub fn parse(body: &Value) -> Result<PlaceOrder, Vec<FieldError>> {
    let mut errors = Errors(Vec::new());
    let order = errors.order(body);
    match order {
        Some(order) if errors.0.is_empty() => Ok(order),
        _ => Err(errors.0),
    }
}

/// What is wrong with an order that can't be priced.
pub fn not_priced(error: &PricingError) -> Vec<FieldError> {
    let lines = Pointer::root().field("lines");
    match error {
        PricingError::Lines(problems) => {
            let told = |(line, problem): &(usize, LineProblem)| line_not_priced(lines.clone().index(*line), problem);
            problems.iter().take(MAX_ERRORS).map(told).collect()
        }
        PricingError::NothingToPay => {
            let detail =
                "the order's sum is 0: at least one line must have a price, since a payment of nothing can't be made";
            vec![FieldError::new(lines, "nothing_to_pay", detail)]
        }
    }
}

fn line_not_priced(line: Pointer, problem: &LineProblem) -> FieldError {
    match problem {
        LineProblem::UnknownSku => FieldError::new(line.field("sku"), "unknown_sku", "there is no such product"),
        LineProblem::OtherCurrency { expected } => {
            let detail = format!("its price is not in {expected} as the first line's");
            FieldError::new(line.field("sku"), "other_currency", detail)
        }
        LineProblem::TooExpensive => {
            FieldError::new(line.field("quantity"), "too_expensive", "the order's sum is too large")
        }
    }
}

/// Whether notification-service can write to it: a dot-atom at a domain name (RFC 5322, section 3.4.1). garde's rule, which
/// is HTML's, lets more pass: a local part with an empty atom (`ada..l`, `.ada`, `ada.`), which is no address, and an IP
/// address in brackets instead of a name, which notification-service's library (lettre) writes into no header.
fn is_mailable(address: &str) -> bool {
    let Some((local, domain)) = address.split_once('@') else { return false };
    let fits = address.len() <= MAX_EMAIL_CHARS && !address.chars().any(|c| c.is_control() || c.is_whitespace());
    let dot_atom = local.split('.').all(|atom| !atom.is_empty());
    fits && dot_atom && !domain.starts_with('[') && garde::rules::email::parse_email(address).is_ok()
}

struct Errors(Vec<FieldError>);

impl Errors {
    /// Notes an error. Answers nothing, so that what depends on the field is nothing too.
    fn add<T>(&mut self, at: Pointer, code: &str, detail: impl Into<String>) -> Option<T> {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError::new(at, code, detail));
        }
        None
    }

    fn order(&mut self, body: &Value) -> Option<PlaceOrder> {
        let at = Pointer::root();
        let members = self.object(body, &at, &["customer", "lines", "payment_method"])?;
        let customer = self.member(members, &at, "customer").and_then(|v| self.customer(v, &at));
        let lines = self.member(members, &at, "lines").and_then(|v| self.lines(v, &at));
        let token = self.member(members, &at, "payment_method").and_then(|v| self.token(v, at.field("payment_method")));
        Some(PlaceOrder { customer: customer?, lines: lines?, payment_method: token? })
    }

    fn customer(&mut self, value: &Value, at: &Pointer) -> Option<NewCustomer> {
        let at = at.clone().field("customer");
        let members = self.object(value, &at, &["email", "phone"])?;
        let email = self.member(members, &at, "email").and_then(|v| self.email(v, at.clone().field("email")));
        let phone = match members.get("phone") {
            None | Some(Value::Null) => Some(None),
            Some(value) => self.phone(value, at.field("phone")).map(Some),
        };
        Some(NewCustomer { email: email?, phone: phone? })
    }

    fn email(&mut self, value: &Value, at: Pointer) -> Option<String> {
        let text = self.text(value, &at)?;
        if is_mailable(text) {
            return Some(text.to_owned());
        }
        self.add(at, "invalid_email", "must be a mail address, for example ada@example.com")
    }

    fn phone(&mut self, value: &Value, at: Pointer) -> Option<String> {
        let text = self.text(value, &at)?;
        let digits = text.strip_prefix('+').unwrap_or_default();
        let known = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
        if known && (7..=15).contains(&digits.len()) {
            return Some(text.to_owned());
        }
        self.add(at, "invalid_phone", "must be a number in E.164 form, for example +15550100")
    }

    fn lines(&mut self, value: &Value, at: &Pointer) -> Option<Vec<RequestedLine>> {
        let at = at.clone().field("lines");
        let Value::Array(items) = value else {
            return self.wrong_type(at, "an array", value);
        };
        if !(1..=MAX_LINES).contains(&items.len()) {
            return self.add(at, "out_of_range", format!("must have 1 to {MAX_LINES} lines; it has {}", items.len()));
        }
        let mut seen = HashSet::new();
        let lines: Vec<_> =
            items.iter().enumerate().map(|(index, item)| self.line(item, at.clone().index(index), &mut seen)).collect();
        lines.into_iter().collect()
    }

    fn line(&mut self, value: &Value, at: Pointer, seen: &mut HashSet<Sku>) -> Option<RequestedLine> {
        let members = self.object(value, &at, &["sku", "quantity"])?;
        let sku = self.member(members, &at, "sku").and_then(|v| self.sku(v, at.clone().field("sku"), seen));
        let quantity = self.member(members, &at, "quantity").and_then(|v| self.quantity(v, at.field("quantity")));
        Some(RequestedLine { sku: sku?, quantity: quantity? })
    }

    fn sku(&mut self, value: &Value, at: Pointer, seen: &mut HashSet<Sku>) -> Option<Sku> {
        let text = self.text(value, &at)?;
        match Sku::parse(text) {
            Err(error) => self.add(at, "invalid_sku", error.to_string()),
            Ok(sku) if !seen.insert(sku.clone()) => {
                self.add(at, "duplicate_sku", "an earlier line has this SKU: add the quantities up")
            }
            Ok(sku) => Some(sku),
        }
    }

    fn quantity(&mut self, value: &Value, at: Pointer) -> Option<u32> {
        let number = match value {
            Value::Number(number) => integer(number),
            _ => return self.wrong_type(at, "an integer", value),
        };
        match number {
            None => self.wrong_type(at, "an integer", value),
            Some(quantity) if (1..=MAX_QUANTITY).contains(&quantity) => u32::try_from(quantity).ok(),
            Some(_) => self.add(at, "out_of_range", format!("must be between 1 and {MAX_QUANTITY}")),
        }
    }

    fn token(&mut self, value: &Value, at: Pointer) -> Option<PaymentToken> {
        let text = self.text(value, &at)?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if (1..=MAX_TOKEN_CHARS).contains(&text.len()) && text.bytes().all(allowed) {
            return Some(PaymentToken::new(text));
        }
        // What was sent is not repeated: it may be a card number.
        self.add(at, "invalid_token", "must be a token of the payment provider, for example tok_visa")
    }

    fn object<'a>(&mut self, value: &'a Value, at: &Pointer, known: &[&str]) -> Option<&'a Map<String, Value>> {
        let Value::Object(members) = value else {
            return self.wrong_type(at.clone(), "an object", value);
        };
        for name in members.keys().filter(|name| !known.contains(&name.as_str())) {
            self.add::<()>(at.clone().field(name), "unknown_field", "there is no such field");
        }
        Some(members)
    }

    fn member<'a>(&mut self, members: &'a Map<String, Value>, at: &Pointer, name: &str) -> Option<&'a Value> {
        let member = members.get(name);
        member.or_else(|| self.add(at.clone().field(name), "missing", "is missing"))
    }

    fn text<'a>(&mut self, value: &'a Value, at: &Pointer) -> Option<&'a str> {
        value.as_str().or_else(|| self.wrong_type(at.clone(), "a string", value))
    }

    fn wrong_type<T>(&mut self, at: Pointer, wanted: &str, value: &Value) -> Option<T> {
        let got = match value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        self.add(at, "invalid_type", format!("must be {wanted}, not {got}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn good() -> Value {
        json!({
            "customer": {"email": "ada@example.com", "phone": "+15550100"},
            "lines": [{"sku": "SKU-1", "quantity": 2}],
            "payment_method": "tok_visa",
        })
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut body = good();
        *body.pointer_mut(pointer).expect("there") = value;
        body
    }

    fn told(body: &Value) -> Vec<(String, String)> {
        parse(body).expect_err("bad").into_iter().map(|e| (e.pointer, e.code)).collect()
    }

    #[test]
    fn the_example_is_good() {
        let order = parse(&good()).expect("good");
        assert_eq!(order.lines[0].quantity, 2);
        assert_eq!(order.payment_method.expose(), "tok_visa");
        assert!(parse(&with("/customer/phone", Value::Null)).is_ok());
        assert!(parse(&with("/lines/0/quantity", json!(1000.0))).is_ok());
    }

    #[test]
    fn each_bad_field_is_pointed_at() {
        let line = json!({"sku": "SKU-1", "quantity": 1});
        for (pointer, value, at, code) in [
            ("", json!([]), "#", "invalid_type"),
            ("/customer", json!("ada"), "#/customer", "invalid_type"),
            ("/customer", json!({}), "#/customer/email", "missing"),
            ("/customer/email", json!("ada"), "#/customer/email", "invalid_email"),
            ("/customer/email", json!("ada@example.com\r\nBcc: x@example.com"), "#/customer/email", "invalid_email"),
            ("/customer/email", json!("ada..l@example.com"), "#/customer/email", "invalid_email"),
            ("/customer/email", json!(".ada@example.com"), "#/customer/email", "invalid_email"),
            ("/customer/email", json!("ada.@example.com"), "#/customer/email", "invalid_email"),
            ("/customer/email", json!("ada@[127.0.0.1]"), "#/customer/email", "invalid_email"),
            ("/customer/email", json!("ada@[2001:db8::1]"), "#/customer/email", "invalid_email"),
            ("/customer/email", json!(format!("{}@example.com", "a".repeat(300))), "#/customer/email", "invalid_email"),
            ("/customer/email", json!(7), "#/customer/email", "invalid_type"),
            ("/customer/phone", json!("555"), "#/customer/phone", "invalid_phone"),
            ("/customer/phone", json!("+0123456789"), "#/customer/phone", "invalid_phone"),
            ("/lines", json!([]), "#/lines", "out_of_range"),
            ("/lines", json!(vec![line; 101]), "#/lines", "out_of_range"),
            ("/lines", json!({}), "#/lines", "invalid_type"),
            ("/lines/0", json!(null), "#/lines/0", "invalid_type"),
            ("/lines/0/sku", json!("a b"), "#/lines/0/sku", "invalid_sku"),
            ("/lines/0/sku", json!("a\u{0}"), "#/lines/0/sku", "invalid_sku"),
            ("/lines/0/quantity", json!(0), "#/lines/0/quantity", "out_of_range"),
            ("/lines/0/quantity", json!(1001), "#/lines/0/quantity", "out_of_range"),
            ("/lines/0/quantity", json!(-1), "#/lines/0/quantity", "out_of_range"),
            ("/lines/0/quantity", json!(1.5), "#/lines/0/quantity", "invalid_type"),
            ("/lines/0/quantity", json!("2"), "#/lines/0/quantity", "invalid_type"),
            ("/payment_method", json!(""), "#/payment_method", "invalid_token"),
            ("/payment_method", json!("4111 1111 1111 1111"), "#/payment_method", "invalid_token"),
        ] {
            assert_eq!(told(&with(pointer, value)), [(at.to_owned(), code.to_owned())], "{pointer}");
        }
    }

    #[test]
    fn every_bad_field_is_told_at_once() {
        let body = json!({
            "customer": {"email": 1, "phone": "x", "name": "Ada"},
            "lines": [{"sku": "A", "quantity": 0}, {"quantity": 1}, {"sku": "A", "quantity": 1}],
            "50% coupon": "é",
        });
        let pointers: HashSet<_> = told(&body).into_iter().map(|(at, code)| format!("{at} {code}")).collect();
        let expected = [
            "#/50%25%20coupon unknown_field",
            "#/customer/name unknown_field",
            "#/customer/email invalid_type",
            "#/customer/phone invalid_phone",
            "#/lines/0/quantity out_of_range",
            "#/lines/1/sku missing",
            "#/lines/2/sku duplicate_sku",
            "#/payment_method missing",
        ];
        assert_eq!(pointers, expected.map(str::to_owned).into());
    }

    #[test]
    fn a_token_is_never_printed() {
        let order = parse(&with("/payment_method", json!("tok_secret"))).expect("good");
        assert!(!format!("{order:?}").contains("tok_secret"));
        let errors = parse(&with("/payment_method", json!("4111 1111"))).expect_err("bad");
        assert!(!format!("{errors:?}").contains("4111"));
    }

    #[test]
    fn a_body_full_of_errors_gets_a_bounded_answer() {
        let many: Map<String, Value> = (0..5_000).map(|n| (format!("f{n}"), json!(1))).collect();
        assert_eq!(parse(&Value::Object(many)).expect_err("bad").len(), MAX_ERRORS);
    }

    /// Addresses a mail as notification-service does.
    fn a_mail_to(address: &str) -> Result<lettre::Message, String> {
        let recipient: lettre::Address = address.parse().map_err(|e| format!("no address: {e}"))?;
        let sender = "orders@shop.example".parse().expect("a mailbox");
        let to = lettre::message::Mailbox::new(None, recipient);
        lettre::Message::builder().from(sender).to(to).body(String::new()).map_err(|e| format!("no mail: {e}"))
    }

    #[test]
    fn addresses_that_people_have_are_taken() {
        let long = format!("{}@{}.example", "a".repeat(64), "b".repeat(63));
        for good in ["a@b", "ada.l+shop@mail.example.com", "o'neil@example.com", "#!$%&*/=?^_`{|}~-@x-1.example", &long]
        {
            assert!(parse(&with("/customer/email", json!(good))).is_ok(), "{good}");
            assert!(a_mail_to(good).is_ok(), "{good}");
        }
    }

    proptest! {
        #[test]
        fn any_email_that_passes_is_one_line_of_bounded_length(text in ".{0,40}@.{0,40}") {
            if let Ok(order) = parse(&with("/customer/email", json!(text))) {
                prop_assert!(!order.customer.email.chars().any(|c| c.is_control() || c.is_whitespace()));
            }
        }

        /// Else its mails would be dead letters, each of them. Of characters that are allowed in places, so that many pass.
        #[test]
        fn any_email_that_passes_can_be_written_to(
            local in r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~\-]{1,66}|[a.]{1,5}|[a-z.]{1,8}",
            domain in prop_oneof![
                r"[a-z0-9-]{1,65}(\.[a-zA-Z0-9-]{1,10}){0,3}",
                r"([a-z]{1,62}\.){3,5}[a-z]{2}|[a-z.-]{1,6}|[0-9.]{7,9}",
                r"\[[0-9a-f.:]{3,9}\]|\[(IPv6:)?::1\]|\[127\.0\.0\.1\]",
            ],
        ) {
            let text = format!("{local}@{domain}");
            if let Ok(order) = parse(&with("/customer/email", json!(text))) {
                let mail = a_mail_to(&order.customer.email).map_err(TestCaseError::fail)?;
                prop_assert_eq!(mail.envelope().to()[0].to_string(), text);
            }
        }
    }
}
