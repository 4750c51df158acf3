//! The Lambda function `config-refresh`.

use std::sync::Arc;

use config_refresh::{App, handle};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use tenantry::{settings::Settings, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let app = Arc::new(App::start(&Settings::from_environment()?)?);
    run(service_fn(move |event: LambdaEvent<serde_json::Value>| {
        let app = Arc::clone(&app);
        async move { handle(&app, event.payload, event.context.xray_trace_id.as_deref()).await }
    }))
    .await
}
