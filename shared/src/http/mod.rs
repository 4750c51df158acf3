//! stub
/// The API Gateway v2 event.
#[derive(Debug, serde::Deserialize)]
pub struct Event {}
/// The API Gateway v2 response.
#[derive(Debug, serde::Serialize)]
pub struct Answer {}
