//! stub
/// Everything that is configured.
#[derive(Debug, Clone)]
pub struct Settings {}
/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("settings")]
pub struct SettingsError;
impl Settings {
    /// Reads the settings from `source`.
    pub fn load(_source: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        Ok(Self {})
    }
}
