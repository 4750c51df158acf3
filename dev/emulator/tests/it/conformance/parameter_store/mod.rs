//! Parameter Store: what may be put, what is found, and what becomes of old versions.

mod reads;
mod versions;
mod writes;

use aws_sdk_ssm::types::{ParameterTier, ParameterType};

use super::Aws;
use crate::clients::code;

/// Creates or replaces, as the type and tier say; `ok` or the error's code.
async fn put(aws: &Aws, name: &str, value: &str, kind: Option<ParameterType>, tier: Option<ParameterTier>) -> String {
    let put = aws.ssm.put_parameter().name(name).value(value).overwrite(true);
    code(put.set_type(kind).set_tier(tier).send()).await
}
