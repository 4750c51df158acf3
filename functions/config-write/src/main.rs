//! The Lambda function `config-write`.

use std::sync::Arc;

use config_write::{App, handle};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use tenantry::{http::Event, settings::Settings, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let app = Arc::new(App::start(&Settings::from_environment()?)?);
    // Before the first invocation is asked for: what has not been done by then would be part of it.
    app.warm_up().await;
    run(service_fn(move |event: LambdaEvent<Event>| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Error>(handle(&app, event.payload, event.context.xray_trace_id.as_deref()).await) }
    }))
    .await
}
