//! stub
use tenantry::settings::{Settings, SettingsError};
/// The running function.
#[derive(Debug)]
pub struct App {}
impl App {
    /// Starts it.
    pub async fn start(_settings: Settings) -> Result<Self, SettingsError> {
        Ok(Self {})
    }
}
/// Handles one event.
pub async fn handle(_app: &App, _event: serde_json::Value) -> Result<serde_json::Value, lambda_runtime::Error> {
    Ok(serde_json::Value::Null)
}
