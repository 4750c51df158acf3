//! Security Token Service: says who the caller is, so that tools which ask first go on.

use http::StatusCode;

use crate::wire::{AwsError, Reply, escape_xml, reply, request_id};

/// Answers a form-encoded call.
pub(crate) fn call(operation: &str, account: &str) -> Result<Reply, AwsError> {
    if operation != "GetCallerIdentity" {
        return Err(AwsError::new(
            "InvalidAction",
            format!("The emulator does not know the operation {operation:?}; of STS it knows GetCallerIdentity."),
        ));
    }
    let account = escape_xml(account);
    let body = format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <Arn>arn:aws:iam::{account}:user/local</Arn><UserId>AIDALOCAL</UserId><Account>{account}</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata>\
         </GetCallerIdentityResponse>",
        request_id(),
    );
    Ok(reply(StatusCode::OK, "text/xml", body.into()))
}
