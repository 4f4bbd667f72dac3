//! The token that every call carries.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Lets calls through that carry the right token. Compares hashes, so the time tells neither content nor length.
#[derive(Clone)]
pub(crate) struct RequireToken {
    expected: [u8; 32],
}

impl RequireToken {
    pub(crate) fn new(token: &str) -> Self {
        Self { expected: Sha256::digest(token).into() }
    }

    fn admits(&self, header: &str) -> bool {
        let Some((scheme, token)) = header.split_once(' ') else { return false };
        let given: [u8; 32] = Sha256::digest(token).into();
        scheme.eq_ignore_ascii_case("bearer") & bool::from(given.ct_eq(&self.expected))
    }
}

impl Interceptor for RequireToken {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if header.is_some_and(|header| self.admits(header)) {
            Ok(request)
        } else {
            Err(Status::unauthenticated("metadata 'authorization' does not carry the agent's token"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_admitted() {
        let guard = RequireToken::new("secret");
        assert!(guard.admits("Bearer secret"));
        for header in ["", "secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secret ", "Basic secret"] {
            assert!(!guard.admits(header), "{header}");
        }
    }
}
