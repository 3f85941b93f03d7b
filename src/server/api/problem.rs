//! What goes wrong, in exactly the protocol's form, with the HTTP status that fits.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::engine::Refusal;
use crate::protocol::{ErrorCode, ErrorFrame, Reject, ServerFrame};

/// A request that is refused.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    error: ErrorFrame,
}

impl Problem {
    pub(super) fn code(code: ErrorCode) -> Self {
        Self { status: status(code), error: ErrorFrame::new(None, code) }
    }

    /// `invalid_field`, with a reason that continues "The field x ...".
    pub(super) fn field(field: &'static str, reason: &str) -> Self {
        let error = ErrorFrame::new(None, ErrorCode::InvalidField).with_field(field);
        Self { status: StatusCode::BAD_REQUEST, error: error.with_message(format!("The field {field} {reason}.")) }
    }

    pub(super) fn unauthorized() -> Self {
        let error = ErrorFrame::new(None, ErrorCode::InvalidToken).with_message("The API key is not valid.");
        Self { status: StatusCode::UNAUTHORIZED, error }
    }

    pub(super) fn method() -> Self {
        let error = ErrorFrame::new(None, ErrorCode::UnknownType).with_message("This path has no such method.");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, error }
    }

    pub(super) fn late() -> Self {
        let error = ErrorFrame::new(None, ErrorCode::BadJson).with_message("The content did not come in time.");
        Self { status: StatusCode::REQUEST_TIMEOUT, error }
    }
}

/// The status of each code.
pub(super) fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidToken | ErrorCode::TokenExpired => StatusCode::UNAUTHORIZED,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Forbidden | ErrorCode::Revoked => StatusCode::FORBIDDEN,
        ErrorCode::Gone => StatusCode::GONE,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::IdempotencyConflict | ErrorCode::TooLate => StatusCode::CONFLICT,
        ErrorCode::RateLimited | ErrorCode::TooManyConnections => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Unavailable | ErrorCode::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl From<Reject> for Problem {
    fn from(reject: Reject) -> Self {
        Self { status: status(reject.code), error: reject.into_frame() }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let mut error = ErrorFrame::new(None, refusal.code);
        error.retry_after_ms = refusal.retry_after_ms;
        let error = match refusal.field {
            Some(field) => error.with_field(field),
            None => error,
        };
        Self { status: status(refusal.code), error }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = super::json(self.status, ServerFrame::Error(self.error).to_json());
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
