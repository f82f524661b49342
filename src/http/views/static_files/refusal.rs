//! Refusal: maps errors of the file system to failures.

use std::io::{self, ErrorKind};

use http::{HeaderValue, StatusCode, header};

use crate::http::Failure;

/// Returns the failure for a path that cannot be opened: 404 or 403 for every error that a client's
/// choice of path can cause.
pub(super) fn refusal(error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            Failure::forbidden("this file may not be read").because(error)
        }
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many files are open; try again",
        )
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
        .because(error),
        _ if error.kind() == ErrorKind::ResourceBusy => {
            let sentence = "the files cannot be read right now; try again";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("5"))
                .because(error)
        }
        Some(
            libc::ENOENT
            | libc::ENOTDIR
            | libc::EISDIR
            | libc::ENAMETOOLONG
            | libc::ELOOP
            | libc::EXDEV // a symbolic link that leads out of the directory
            | libc::ENXIO
            | libc::ENODEV
            | libc::EINVAL
            | libc::EILSEQ
            | libc::EOVERFLOW,
        ) => missing().because(error),
        _ if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
            missing().because(error)
        }
        _ => Failure::from(error),
    }
}

/// Returns a 404.
pub(super) fn missing() -> Failure {
    Failure::not_found("there is no such file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_can_cause_is_404_or_403_and_what_the_server_lacks_is_503() {
        for (error, status) in [
            (libc::ENOENT, 404),
            (libc::ENOTDIR, 404),
            (libc::ENAMETOOLONG, 404),
            (libc::ELOOP, 404),
            (libc::EXDEV, 404),
            (libc::ENXIO, 404),
            (libc::EACCES, 403),
            (libc::EPERM, 403),
            (libc::EMFILE, 503),
            (libc::ENFILE, 503),
            (libc::EIO, 500),
        ] {
            let failure = refusal(io::Error::from_raw_os_error(error));
            assert_eq!(failure.status(), status, "{error}");
        }
        assert_eq!(refusal(ErrorKind::InvalidInput.into()).status(), 404);
        assert_eq!(refusal(ErrorKind::ResourceBusy.into()).status(), 503);
    }
}
