//! Why nothing was sent, or nothing came back.

use std::error::Error;
use std::io;

use crate::guard::RefusedAddress;
use crate::identity::InvalidIdentity;

/// Out of files, of the process and of the system, as Linux and macOS number it; the standard library has no names for them.
const OUT_OF_FILES: [i32; 2] = [24, 23];

/// Why a request was not made or brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The guard refused; no connection was made.
    #[error(transparent)]
    Refused(#[from] RefusedAddress),
    /// The system has no root certificates, so that no server can prove who it is.
    #[error("https cannot be used, the system has no root certificates: {0}")]
    NoRoots(String),
    /// Longer than the limits allow.
    #[error("no complete answer in time")]
    Timeout,
    /// The name, the connection or the handshake failed, or the connection broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// Nobody was asked, because there was nothing to connect with: no file or memory. It says nothing of the receiver. That
    /// no local address is left is not among them: it is also what a family of addresses that this machine lacks looks like.
    #[error("nothing can be sent, this machine has no {0} left")]
    Exhausted(&'static str),
    /// Another status than 2xx. A redirect too: it is not followed.
    #[error("it answered with status {0}")]
    Status(u16),
    /// The body is larger than the limit, in bytes.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The client itself could not be made.
    #[error("no HTTP client can be made: {0}")]
    Setup(#[source] rustls::Error),
    /// What the receiver wants to be shown could not be had elsewhere; it was not asked itself.
    #[error("{0}")]
    NoCredential(String),
    /// What it is to be sent with makes no request, such as a header with a line end; nobody was asked.
    #[error("no request can be made: {0}")]
    NoRequest(String),
    /// The certificate cannot be used.
    #[error("the client certificate cannot be used: {0}")]
    Identity(#[from] InvalidIdentity),
}

/// What a failure of the library means here. The guard's refusal comes back out of the connector.
pub(crate) fn failed(error: &(dyn Error + 'static), connecting: bool) -> EgressError {
    let mut timed_out = false;
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(refused) = inner.downcast_ref::<RefusedAddress>() {
            return EgressError::Refused(refused.clone());
        }
        if let Some(failed) = inner.downcast_ref::<io::Error>() {
            if let (true, Some(what)) = (connecting, exhausted(failed)) {
                return EgressError::Exhausted(what);
            }
            timed_out |= failed.kind() == io::ErrorKind::TimedOut;
        }
        source = inner.source();
    }
    if timed_out {
        return EgressError::Timeout;
    }
    EgressError::Unreachable(cause_of(error))
}

/// What this machine has none of any more, if that is why nothing was connected to.
fn exhausted(error: &io::Error) -> Option<&'static str> {
    if error.kind() == io::ErrorKind::OutOfMemory {
        return Some("memory");
    }
    let number = error.raw_os_error()?;
    OUT_OF_FILES.contains(&number).then_some("files")
}

/// The innermost cause: what wraps it only repeats the URL.
pub(crate) fn cause_of(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
