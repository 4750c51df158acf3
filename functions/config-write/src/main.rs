//! The Lambda function `config-write`.

use std::{process::ExitCode, sync::Arc};

use config_write::{App, handle};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use tenantry::{http::Event, process, settings::Settings};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    process::run(async {
        let app = Arc::new(App::start(&Settings::from_environment()?)?);
        // Before the first invocation is asked for: what has not been done by then would be part of
        // it.
        app.warm_up().await;
        lambda_runtime::run(service_fn(move |event: LambdaEvent<Event>| {
            let app = Arc::clone(&app);
            async move { Ok::<_, Error>(handle(&app, event.payload, &event.context).await) }
        }))
        .await
    })
    .await
}
