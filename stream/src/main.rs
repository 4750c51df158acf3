//! The service `config-stream`.

use std::process::ExitCode;

use aws_config::{default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use config_stream::{Stream, settings::StreamSettings, signals::StopSignals};
use tenantry::{
    aws::OwnCredentials,
    process::{self, Error},
};

#[tokio::main]
async fn main() -> ExitCode {
    process::run(async {
        // A service lives longer than credentials do: ECS, EKS and EC2 give it new ones in time.
        let client = aws_smithy_http_client::Builder::new().build_http();
        let provider =
            DefaultCredentialsChain::builder().configure(ProviderConfig::without_region().with_http_client(client));
        let credentials = SharedCredentialsProvider::new(provider.build().await);
        let settings = StreamSettings::load(&|name| std::env::var(name).ok(), OwnCredentials::Provided(credentials))?;
        let mut signals = StopSignals::listen()?;
        let stream = Stream::start(&settings).await?;
        signals.next().await?;
        stream.stop().await;
        Ok::<_, Error>(())
    })
    .await
}
