//! Extractors that answer a bad request with a problem that points at what is wrong.

use axum::body::Bytes;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::{FieldError, Pointer, Problem};

/// A JSON body of type `T`; anything else is a problem: 415 for another content type, 413 for too much, 400 for broken
/// JSON, 422 with a pointer for a wrong type or a missing field. The limit is axum's `DefaultBodyLimit`.
#[derive(Debug, Clone, Copy)]
pub struct ValidJson<T>(pub T);

impl<T: DeserializeOwned> ValidJson<T> {
    /// Parses a body that was already read, without looking at its content type.
    pub fn from_bytes(body: &[u8]) -> Result<Self, Problem> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let value = serde_path_to_error::deserialize(&mut json).map_err(unreadable)?;
        json.end().map_err(|e| broken(&e))?;
        Ok(Self(value))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for ValidJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::named(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
                .with_detail("send the body as content-type: application/json"));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Problem::named(StatusCode::PAYLOAD_TOO_LARGE, "too_large").with_detail("the body is too large")
            }
            _ => Problem::bad_request("the body ended early"),
        })?;
        Self::from_bytes(&body)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

fn unreadable(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    if !error.inner().is_data() {
        return broken(error.inner());
    }
    let mut pointer = error.path().iter().fold(Pointer::root(), |pointer, segment| match segment {
        Segment::Seq { index } => pointer.index(*index),
        Segment::Map { key } => pointer.field(key),
        Segment::Enum { variant } => pointer.field(variant),
        Segment::Unknown => pointer,
    });
    let message = error.inner().to_string();
    let detail = message.split(" at line ").next().unwrap_or(&message);
    // The path of a missing field ends at its parent; only the message has its name.
    let missing = detail.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    let code = if missing.is_some() { "missing" } else { "invalid" };
    if let Some(name) = missing {
        pointer = pointer.field(name);
    }
    Problem::invalid(vec![FieldError::new(pointer, code, detail)])
}

fn broken(error: &serde_json::Error) -> Problem {
    Problem::named(StatusCode::BAD_REQUEST, "broken_json").with_detail(format!("the body is no valid JSON: {error}"))
}

/// Path parameters of type `T`; 404 where they don't parse, since nothing can be at such a path.
#[derive(Debug, Clone, Copy)]
pub struct ValidPath<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for ValidPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => match error.into_kind() {
                kind @ (ErrorKind::UnsupportedType { .. } | ErrorKind::WrongNumberOfParameters { .. }) => {
                    Err(Problem::internal(kind))
                }
                kind => Err(Problem::not_found(format!("nothing can be here: {kind}"))),
            },
            Err(other) => Err(Problem::internal(other)),
        }
    }
}

/// Query parameters of type `T`; 400 where they don't parse.
#[derive(Debug, Clone, Copy)]
pub struct ValidQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for ValidQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its parsing is tested")]
    struct Order {
        lines: Vec<Line>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing is tested")]
    struct Line {
        sku: String,
        quantity: u32,
    }

    fn problem(body: &str) -> Problem {
        ValidJson::<Order>::from_bytes(body.as_bytes()).expect_err("bad")
    }

    #[test]
    fn a_wrong_type_is_pointed_at() {
        let wrong = problem(r#"{"lines":[{"sku":"A","quantity":1},{"sku":"A","quantity":"two"}]}"#);
        assert_eq!(wrong.status, 422);
        assert_eq!(wrong.errors[0].pointer, "#/lines/1/quantity");
        assert_eq!(wrong.errors[0].detail, "invalid type: string \"two\", expected u32");
        assert_eq!(problem("5").errors[0].pointer, "#");
    }

    #[test]
    fn a_missing_field_is_pointed_at() {
        let missing = problem(r#"{"lines":[{"sku":"A"}]}"#);
        assert_eq!(missing.errors[0].pointer, "#/lines/0/quantity");
        assert_eq!(missing.errors[0].code, "missing");
    }

    #[test]
    fn an_unknown_field_is_pointed_at() {
        let unknown = problem(r#"{"lines":[{"sku":"A","quantity":1,"colour":"red"}]}"#);
        assert_eq!(unknown.errors[0].pointer, "#/lines/0/colour");
    }

    #[test]
    fn broken_json_is_a_bad_request() {
        for body in ["", "{", r#"{"lines":[]} trailing"#, "{'lines':[]}", "\u{0}"] {
            let problem = problem(body);
            assert_eq!((problem.status, problem.code.as_deref()), (400, Some("broken_json")), "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(problem) = ValidJson::<Order>::from_bytes(&body) {
                prop_assert!(problem.status == 400 || problem.status == 422);
            }
        }
    }
}
