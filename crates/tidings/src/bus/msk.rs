//! Logins for Amazon MSK, where a region says that the brokers are of one.

use std::error::Error;
use std::sync::Arc;

use anyhow::{Context, Result};
use tidings_bus::kafka::{Login, Logins};
use tidings_msk::Signer;

#[derive(Debug)]
struct Msk(Signer);

impl Logins for Msk {
    fn login(&self) -> Result<Login, Box<dyn Error>> {
        let token = self.0.token()?;
        Ok(Login {
            token: token.value,
            until_ms: token.until_ms,
        })
    }
}

/// None without a region.
pub(super) fn logins(region: &str) -> Result<Option<Arc<dyn Logins>>> {
    if region.is_empty() {
        return Ok(None);
    }
    let signer = Signer::new(region).context("logins for Amazon MSK cannot be made")?;
    Ok(Some(Arc::new(Msk(signer))))
}
