//! The gateway: HTTP in, RPC to the VIP out.
//!
//! `POST /run/<function>` becomes one call; the answer's status code says whose fault a failure was.

mod config;
mod error;

pub use config::Config;
pub use error::{ConfigError, RunError};
use tokio::sync::watch;

/// Serves until `stop` becomes true, then finishes what is in flight.
///
/// # Errors
/// [`RunError`] says what could not be set up.
pub async fn run(_config: Config, mut stop: watch::Receiver<bool>) -> Result<(), RunError> {
    stop.wait_for(|stopped| *stopped).await.ok();
    Ok(())
}
