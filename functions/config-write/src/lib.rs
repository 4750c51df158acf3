//! stub
use tenantry::{
    http::{Answer, Event},
    settings::{Settings, SettingsError},
};
/// The running function.
#[derive(Debug)]
pub struct App {}
impl App {
    /// Starts it.
    pub async fn start(_settings: Settings) -> Result<Self, SettingsError> {
        Ok(Self {})
    }
}
/// Answers one request.
pub async fn handle(_app: &App, _event: Event) -> Answer {
    Answer {}
}
