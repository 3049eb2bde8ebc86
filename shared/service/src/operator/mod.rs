//! The operator's interface of every service: what is to become of its dead letters, and what was decided.
//!
//! Each request carries `Authorization: Bearer $OPERATOR_TOKEN`. A service without a token refuses every command and says
//! how to enable them, so nobody is let in by forgetting a setting. Bodies and batches are bounded. The description is
//! served at `/operator/openapi.json` to anybody: it holds no secret.
//!
//! What a command means is [`messaging::operator`]'s business; here are its shapes.

mod wire;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use messaging::Operator;
use messaging::operator::Order;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::{Problem, ValidJson, ValidQuery};
use wire::{AuditQuery, AuditView, Command, Outcome, Standing, StandingQuery};

/// The largest body of a command, in bytes: some of the largest records that there can be, in base64.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// The shortest token, in characters.
pub const MIN_TOKEN_CHARS: usize = 16;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Operator's interface",
        description = "What is to become of a service's dead letters. The same for every service of the suite.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    modifiers(&Bearer),
    security(("operator" = []))
)]
struct ApiDoc;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("OPERATOR_TOKEN")).build();
        api.components.get_or_insert_default().add_security_scheme("operator", SecurityScheme::Http(scheme));
    }
}

fn documented() -> OpenApiRouter<Operator> {
    OpenApiRouter::with_openapi(ApiDoc::openapi())
        .routes(routes!(redrive))
        .routes(routes!(discard))
        .routes(routes!(standing))
        .routes(routes!(audit))
}

/// The interface's description, as `/operator/openapi.json` serves it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

/// The routes of `operator`'s service. Without a token every command is refused.
pub fn router(operator: Operator, token: Option<SecretString>) -> Router {
    let (routes, api) = documented().split_for_parts();
    let description = Arc::new(api);
    routes
        .with_state(operator)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(token.map(Arc::new), authorized))
        .route("/operator/openapi.json", get(async move || Json((*description).clone())))
}

async fn authorized(State(token): State<Option<Arc<SecretString>>>, request: Request, next: Next) -> Response {
    let Some(token) = token else {
        let problem = Problem::named(StatusCode::FORBIDDEN, "operator_disabled").with_detail(format!(
            "this service takes no operator's commands: start it with OPERATOR_TOKEN set to a secret of {MIN_TOKEN_CHARS} \
             characters or more"
        ));
        return problem.into_response();
    };
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(bearer);
    // In a time that doesn't tell how much of it is right.
    let right = given.is_some_and(|given| bool::from(given.ct_eq(token.expose_secret().as_bytes())));
    if right {
        return next.run(request).await;
    }
    let detail = match given {
        Some(_) => "the token is not this service's OPERATOR_TOKEN",
        None => "send Authorization: Bearer OPERATOR_TOKEN",
    };
    let mut response = Problem::named(StatusCode::UNAUTHORIZED, "unauthorized").with_detail(detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Redrives dead letters to the group that gave up on them, those with an edited value as new events. All of the batch or,
/// where the database doesn't answer, none of it; each letter has its own answer. Given again it changes nothing.
#[utoipa::path(
    post, path = "/operator/dead-letters/redrive", tag = "dead letters", request_body = Command,
    responses(
        (status = 200, description = "One result per record, in their order", body = Outcome),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The service has no token", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A part of the request is wrong", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn redrive(
    State(operator): State<Operator>,
    ValidJson(command): ValidJson<Command>,
) -> Result<Json<Outcome>, Problem> {
    carry_out(&operator, Order::Redrive, command).await
}

/// Gives dead letters up: they can't be redriven any more, and what was held behind them goes on.
#[utoipa::path(
    post, path = "/operator/dead-letters/discard", tag = "dead letters", request_body = Command,
    responses(
        (status = 200, description = "One result per record, in their order", body = Outcome),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The service has no token", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A part of the request is wrong", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn discard(
    State(operator): State<Operator>,
    ValidJson(command): ValidJson<Command>,
) -> Result<Json<Outcome>, Problem> {
    carry_out(&operator, Order::Discard, command).await
}

async fn carry_out(operator: &Operator, order: Order, command: Command) -> Result<Json<Outcome>, Problem> {
    let (command, letters) = command.parse(order)?;
    let answered = operator.carry_out(&command, &letters).await?;
    Ok(Json(Outcome::of(&command, answered)))
}

/// Where events are in the inbox, and what was decided about them last.
#[utoipa::path(
    post, path = "/operator/dead-letters/standing", tag = "dead letters", request_body = StandingQuery,
    responses(
        (status = 200, description = "One entry per event, in their order", body = Standing),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The service has no token", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A part of the request is wrong", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn standing(
    State(operator): State<Operator>,
    ValidJson(query): ValidJson<StandingQuery>,
) -> Result<Json<Standing>, Problem> {
    let found = operator.standing(&query.parse()?).await?;
    Ok(Json(Standing::of(operator.group(), found)))
}

/// What was decided, newest first.
#[utoipa::path(
    get, path = "/operator/audit", tag = "dead letters", params(AuditQuery),
    responses(
        (status = 200, body = AuditView),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The service has no token", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn audit(
    State(operator): State<Operator>,
    ValidQuery(query): ValidQuery<AuditQuery>,
) -> Result<Json<AuditView>, Problem> {
    let taken = operator.audit(query.command_id, query.event_id.map(Into::into), query.limit()).await?;
    Ok(Json(AuditView::of(taken)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        for other in [&b"abc"[..], b"Basic abcdef", b"Bearer", b""] {
            assert_eq!(bearer(other), None);
        }
    }
}
