//! Problem details (RFC 9457): the one shape of every error that leaves a service over HTTP.
//!
//! A problem says what the caller can do about it and nothing about the inside. [`ValidJson`], [`ValidPath`]
//! and [`ValidQuery`] are extractors whose rejections are problems.

mod extract;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use messaging::{Failure, FailureKind};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use extract::{ValidJson, ValidPath, ValidQuery};

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error as the client sees it. Its texts are boxed to keep `Result<_, Problem>` small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Identifies the kind of problem; `about:blank` where the status says it all.
    #[serde(rename = "type", default = "about_blank")]
    #[schema(value_type = String, example = "urn:order-suite:problem:invalid_request")]
    pub kind: Box<str>,
    /// The kind in words; the same for every occurrence.
    #[schema(value_type = String, example = "Unprocessable Entity")]
    pub title: Box<str>,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What happened this time, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub detail: Option<Box<str>>,
    /// Which occurrence or resource it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub instance: Option<Box<str>>,
    /// A stable name for programs, where the status alone doesn't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub code: Option<Box<str>>,
    /// Every part of the request that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Seconds after which to try again, sent as `Retry-After`.
    #[serde(skip)]
    #[schema(ignore)]
    pub retry_after_secs: Option<u32>,
}

/// One part of a request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901, as a URI fragment) into the request's body.
    #[schema(example = "#/lines/0/quantity")]
    pub pointer: String,
    /// What is wrong, for people.
    #[schema(example = "must be between 1 and 1000")]
    pub detail: String,
    /// What is wrong, for programs.
    #[schema(example = "out_of_range")]
    pub code: String,
}

impl FieldError {
    /// An error at a pointer that is already in fragment form (see [`Pointer`]).
    pub fn new(pointer: impl Into<String>, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into(), code: code.into() }
    }
}

/// What a fragment holds only as `%XX`: every character but `pchar`, `/` and `?` (RFC 3986, section 3.5), and `%` itself.
const NOT_IN_A_FRAGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Builds a JSON Pointer in fragment form (RFC 6901, section 6): `Pointer::root().field("lines").index(0)` is `#/lines/0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(String);

impl Pointer {
    /// The whole body, `#`.
    pub fn root() -> Self {
        Self("#".to_owned())
    }

    /// A member of an object, whatever its name: first the pointer's own escapes, then the fragment's.
    pub fn field(mut self, name: &str) -> Self {
        self.0.push('/');
        self.0.extend(utf8_percent_encode(&name.replace('~', "~0").replace('/', "~1"), NOT_IN_A_FRAGMENT));
        self
    }

    /// An item of an array, from 0.
    pub fn index(mut self, index: usize) -> Self {
        self.0.push_str(&format!("/{index}"));
        self
    }
}

impl From<Pointer> for String {
    fn from(pointer: Pointer) -> Self {
        pointer.0
    }
}

fn about_blank() -> Box<str> {
    "about:blank".into()
}

impl Problem {
    /// A problem that its status describes.
    pub fn new(status: StatusCode) -> Self {
        Self {
            kind: about_blank(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: None,
            instance: None,
            code: None,
            errors: Vec::new(),
            retry_after_secs: None,
        }
    }

    /// A problem with a stable name: it becomes `code` and the end of `type`.
    pub fn named(status: StatusCode, code: &str) -> Self {
        let kind = format!("urn:order-suite:problem:{code}");
        Self { kind: kind.into(), code: Some(code.into()), ..Self::new(status) }
    }

    /// Says what happened this time.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into().into());
        self
    }

    /// Says which occurrence or resource it is about.
    pub fn with_instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into().into());
        self
    }

    /// Says when to try again.
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_secs = Some(seconds);
        self
    }

    /// Adds one wrong part of the request.
    pub fn with_error(mut self, error: FieldError) -> Self {
        self.errors.push(error);
        self
    }

    /// 400: the request as a whole can't be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::named(StatusCode::BAD_REQUEST, "bad_request").with_detail(detail)
    }

    /// 422: the request can be read, but these parts of it are wrong.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.len() {
            1 => "1 part of the request is wrong".to_owned(),
            count => format!("{count} parts of the request are wrong"),
        };
        let problem = Self::named(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request").with_detail(detail);
        Self { errors, ..problem }
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::named(StatusCode::NOT_FOUND, "not_found").with_detail(detail)
    }

    /// 409 with a stable name.
    pub fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self::named(StatusCode::CONFLICT, code).with_detail(detail)
    }

    /// 503: try again after this many seconds.
    pub fn unavailable(detail: impl Into<String>, retry_after_secs: u32) -> Self {
        let problem = Self::named(StatusCode::SERVICE_UNAVAILABLE, "unavailable").with_detail(detail);
        problem.with_retry_after(retry_after_secs)
    }

    /// 500. The cause is logged and never sent.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        // `{:#}` shows an anyhow error with its causes.
        tracing::error!(cause = format!("{cause:#}"), "request failed");
        Self::named(StatusCode::INTERNAL_SERVER_ERROR, "internal").with_detail("This is our fault; it has been logged.")
    }

    /// The status as a type.
    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// 422 with a pointer for each of garde's findings.
impl From<&garde::Report> for Problem {
    fn from(report: &garde::Report) -> Self {
        let error = |(path, error): &(garde::Path, garde::Error)| {
            FieldError::new(garde_pointer(&path.to_string()), "invalid", error.message())
        };
        Self::invalid(report.iter().map(error).collect())
    }
}

/// What a statement's failure means for a request: come back in a second where the database is away, busy with others or too
/// slow, else something is wrong with us.
impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        if is_for_lack_of_an_answer(&failure) {
            tracing::warn!(%failure, "request not answered");
            return Self::unavailable("the database does not answer", 1);
        }
        Self::internal(failure)
    }
}

/// Whether a statement failed because the database did not answer (it was away, busy with others, or the statement's time was
/// up), so that the same one may succeed a moment later; not because of what was asked or written.
pub fn is_for_lack_of_an_answer(failure: &Failure) -> bool {
    match failure.kind {
        FailureKind::Outage | FailureKind::Conflict => true,
        // query_canceled: by statement_timeout, or by an administrator.
        FailureKind::Retryable => failure.class == "sqlstate.57014",
        FailureKind::Permanent(_) => false,
    }
}

/// `lines[0].quantity` becomes `#/lines/0/quantity`.
fn garde_pointer(path: &str) -> Pointer {
    let parts = path.split(['.', '[', ']']).filter(|part| !part.is_empty());
    parts.fold(Pointer::root(), Pointer::field)
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, self.title)?;
        self.detail.iter().try_for_each(|detail| write!(f, ": {detail}"))
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status_code(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(seconds) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_problem_has_the_members_of_rfc_9457() {
        let pointer = Pointer::root().field("lines").index(0).field("a/b~c");
        let problem = Problem::invalid(vec![FieldError::new(pointer, "out_of_range", "must be 1 to 1000")]);
        let problem = problem.with_instance("/orders");
        assert_eq!(
            serde_json::to_value(&problem).expect("JSON"),
            json!({
                "type": "urn:order-suite:problem:invalid_request", "title": "Unprocessable Entity", "status": 422,
                "detail": "1 part of the request is wrong", "instance": "/orders", "code": "invalid_request",
                "errors": [{"pointer": "#/lines/0/a~1b~0c", "detail": "must be 1 to 1000", "code": "out_of_range"}],
            })
        );
        assert_eq!(
            serde_json::to_value(Problem::new(StatusCode::NOT_FOUND)).expect("JSON"),
            json!({"type": "about:blank", "title": "Not Found", "status": 404})
        );
    }

    #[test]
    fn the_answer_carries_media_type_and_retry_after() {
        let response = Problem::unavailable("the queue is full", 2).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["content-type"], CONTENT_TYPE);
        assert_eq!(response.headers()["retry-after"], "2");
    }

    #[test]
    fn an_internal_problem_keeps_its_cause_to_itself() {
        let problem = Problem::internal(anyhow::anyhow!("password authentication failed"));
        assert!(!serde_json::to_string(&problem).expect("JSON").contains("password"));
    }

    #[test]
    fn a_statement_whose_time_is_up_is_tried_again_later_and_one_that_is_refused_is_our_fault() {
        for (class, status) in [("sqlstate.57014", 503), ("sqlstate.23514", 500), ("database.client", 500)] {
            assert_eq!(Problem::from(Failure::retryable(class, "it failed")).status, status, "{class}");
        }
        let away = Problem::from(Failure::outage("database.pool", "nobody is there"));
        assert_eq!((away.status, away.retry_after_secs), (503, Some(1)));
    }

    #[test]
    fn a_name_that_a_fragment_can_not_hold_is_percent_encoded() {
        for (name, pointer) in [
            ("50% off", "#/50%25%20off"),
            ("é", "#/%C3%A9"),
            ("a/b~c", "#/a~1b~0c"),
            ("#", "#/%23"),
            ("\\\"^`{|}<>[]", "#/%5C%22%5E%60%7B%7C%7D%3C%3E%5B%5D"),
            ("\r\n\u{7f}", "#/%0D%0A%7F"),
            ("-._!$&'()*+,;=:@?", "#/-._!$&'()*+,;=:@?"),
            ("", "#/"),
        ] {
            assert_eq!(String::from(Pointer::root().field(name)), pointer, "{name:?}");
        }
    }

    proptest! {
        /// Read as RFC 6901 says: the fragment decoded, then the pointer followed.
        #[test]
        fn a_pointer_is_a_uri_fragment_and_leads_to_its_member(names in proptest::collection::vec(any::<String>(), 0..4)) {
            let member = json!({"it is": "this"});
            let body = names.iter().rev().fold(member.clone(), |inner, name| json!({"other": 1, name.as_str(): inner}));
            let pointer = String::from(names.iter().fold(Pointer::root(), |pointer, name| pointer.field(name)));
            let fragment = pointer.strip_prefix('#').expect("a fragment");
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&b);
            prop_assert!(fragment.bytes().all(allowed), "{}", fragment);
            let decoded = percent_decode_str(fragment).decode_utf8().expect("UTF-8");
            prop_assert_eq!(body.pointer(&decoded), Some(&member));
        }
    }

    #[test]
    fn a_report_of_garde_becomes_pointers() {
        use garde::Validate as _;
        #[derive(garde::Validate)]
        struct Line {
            #[garde(range(min = 1, max = 1000))]
            quantity: u32,
        }
        #[derive(garde::Validate)]
        struct Order {
            #[garde(dive)]
            lines: Vec<Line>,
        }
        let order = Order { lines: vec![Line { quantity: 1 }, Line { quantity: 0 }] };
        let problem = Problem::from(&order.validate().expect_err("zero"));
        assert_eq!(problem.errors[0].pointer, "#/lines/1/quantity");
    }
}
