//! The Lambda function `config-refresh`.

use std::{process::ExitCode, sync::Arc};

use config_refresh::{App, handle};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use tenantry::{process, settings::Settings};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    process::run(async {
        let app = Arc::new(App::start(&Settings::from_environment()?)?);
        lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
            let app = Arc::clone(&app);
            async move { handle(&app, event.payload, &event.context).await }
        }))
        .await
    })
    .await
}
