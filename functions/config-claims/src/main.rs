//! The Lambda function `config-claims`.

use config_claims::handle;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(|event: LambdaEvent<Value>| async move {
        let answer = handle(event.payload);
        if let Err(refusal) = &answer {
            // Whom it concerns and why: Cognito tells the user the reason alone, and nobody else
            // anything.
            eprintln!("{}", refusal.line(&event.context.request_id));
        }
        Ok::<_, Error>(answer?)
    }))
    .await
}
