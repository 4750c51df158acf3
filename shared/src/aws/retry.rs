//! How calls are tried again, and how many retries a client may make.

use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::config::retry::{ClientRateLimiter, RetryConfig, RetryPartition, TokenBucket};

use super::Service;

/// How often a call is tried.
const MAX_ATTEMPTS: u32 = 3;
/// The longest wait before the second attempt, and before any. It doubles from attempt to attempt.
/// The SDK waits a random part of it ("full jitter"), except where throttles decide the wait.
const FIRST_RETRY_WAIT: Duration = Duration::from_millis(200);
const MAX_RETRY_WAIT: Duration = Duration::from_secs(2);
/// How many retries a client may make on credit, and what part of a retry each success earns. A
/// client so makes at most these, and half as many retries as it has successes: a service that is
/// down or slow gets little more load than it would without retries.
const RETRY_CREDIT: usize = 10;
const RETRIES_PER_SUCCESS: f32 = 0.5;

/// How a client's calls are tried again.
pub(super) fn retries(service: Service) -> RetryConfig {
    let config = match service {
        // Its limits are low and hold for all of an account and region; those of puts are not
        // published. No environment can count for all of them. Each one that is throttled calls
        // less often from then on, and slowly speeds up again.
        Service::ParameterStore => RetryConfig::adaptive(),
        // A throttled table mostly means one tenant's partition, which must not slow the others
        // down.
        Service::DynamoDb | Service::EventBridge | Service::Sts => RetryConfig::standard(),
    };
    config.with_max_attempts(MAX_ATTEMPTS).with_initial_backoff(FIRST_RETRY_WAIT).with_max_backoff(MAX_RETRY_WAIT)
}

/// The configuration of a call to Parameter Store that must not be repeated.
pub(crate) fn once_to_parameter_store() -> aws_sdk_ssm::config::Builder {
    aws_sdk_ssm::Config::builder().retry_config(retries(Service::ParameterStore).with_max_attempts(1))
}

/// What all calls of one client share.
pub(super) fn retry_budget(service: Service) -> RetryPartition {
    let tokens = TokenBucket::builder().capacity(RETRY_CREDIT).success_reward(RETRIES_PER_SUCCESS);
    let tokens = tokens.retry_cost(1).throttling_retry_cost(1).timeout_retry_cost(1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let rate = ClientRateLimiter::new(now.as_secs_f64());
    RetryPartition::custom(service.trace_name()).token_bucket(tokens.build()).client_rate_limiter(rate).build()
}
