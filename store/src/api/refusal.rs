//! How each error becomes an answer: status, kind, fault and whether to try again, in one place.

use axum::{
    Json,
    extract::rejection::{JsonRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ebpf_common::wire::Fault;
use tracing::error;

use super::types::ErrorBody;
use crate::{
    digest::DigestError, publish::PublishError, repository::RepositoryError, unpack::UnpackError,
};

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) ErrorBody);

impl Refusal {
    fn new(status: u16, kind: &str, fault: Fault, retryable: bool, error: String) -> Self {
        Self(ErrorBody {
            error,
            status,
            kind: kind.to_owned(),
            fault: fault.name().to_owned(),
            retryable,
        })
    }

    fn caller(status: u16, kind: &str, error: String) -> Self {
        Self::new(status, kind, Fault::Caller, false, error)
    }

    pub(crate) fn no_route() -> Self {
        let error = "there is nothing at this path; the API begins with /v1/";
        Self::caller(404, "no_route", error.to_owned())
    }

    pub(crate) fn no_method() -> Self {
        let error = "this path does not take this method";
        Self::caller(405, "no_method", error.to_owned())
    }

    pub(crate) fn bad_json(rejection: &JsonRejection) -> Self {
        Self::caller(400, "bad_json", rejection.body_text())
    }

    pub(crate) fn bad_query(rejection: &QueryRejection) -> Self {
        Self::caller(400, "bad_query", rejection.body_text())
    }

    pub(crate) fn bad_digest(error: &DigestError) -> Self {
        Self::caller(400, "bad_digest", error.to_string())
    }
}

impl From<&RepositoryError> for Refusal {
    fn from(error: &RepositoryError) -> Self {
        let text = error.to_string();
        match error {
            RepositoryError::NoFunction { .. } => Self::caller(404, "no_function", text),
            RepositoryError::NoVersion { .. } => Self::caller(404, "no_version", text),
            RepositoryError::NoAlias { .. } => Self::caller(404, "no_alias", text),
            RepositoryError::NoBundle { .. } => Self::caller(404, "no_bundle", text),
            RepositoryError::NoLayer { .. } => Self::caller(404, "no_layer", text),
            RepositoryError::CorruptLayer { .. } => {
                Self::new(500, "corrupt_layer", Fault::Platform, false, text)
            }
            RepositoryError::BadAlias { .. } => Self::caller(400, "bad_alias", text),
            RepositoryError::CorruptBundle { .. } => {
                Self::new(500, "corrupt_bundle", Fault::Platform, false, text)
            }
            RepositoryError::DiskFull { .. } => {
                Self::new(507, "disk_full", Fault::Platform, true, text)
            }
            RepositoryError::Storage { source, .. } => {
                // Handled here: the caller is told that it failed, the operator why.
                error!(error = %source, "{text}");
                Self::new(500, "storage", Fault::Platform, true, text)
            }
            RepositoryError::Folder { .. } => {
                Self::new(500, "folder", Fault::Platform, false, text)
            }
        }
    }
}

impl From<&PublishError> for Refusal {
    fn from(error: &PublishError) -> Self {
        let text = error.to_string();
        match error {
            PublishError::Refused(refused) => {
                let status = match refused {
                    UnpackError::BundleTooLarge { .. }
                    | UnpackError::UnpackedTooLarge { .. }
                    | UnpackError::TooManyFiles { .. } => 413,
                    _ => 422,
                };
                Self::caller(status, refused.kind(), text)
            }
            PublishError::Name(_) => Self::caller(400, "bad_name", text),
            PublishError::NoLayer { .. } => Self::caller(422, "missing_layer", text),
            PublishError::Upload { .. } => Self::new(400, "upload", Fault::Caller, true, text),
            PublishError::Contended { .. } => {
                Self::new(503, "contended", Fault::Platform, true, text)
            }
            PublishError::Stopping(_) => Self::new(503, "stopping", Fault::Platform, true, text),
            PublishError::Storage(error) => error.into(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}
