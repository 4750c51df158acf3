//! The streaming service: its messages, its statuses, and the names of its metrics.

use aws_sdk_ssm::types::ParameterType;
use config_proto::v1;
use emulator::EventFate;
use serde_json::json;
use tonic::Status;

use super::{Record, assert_recorded};
use crate::{forged::changed, harness::Api, operator::edit, stream::Instance};

impl Record {
    /// Notes how a call ended that failed.
    fn status(&mut self, what: &str, status: &Status) {
        let headers: Vec<_> = status.metadata().as_ref().keys().map(http::HeaderName::as_str).collect();
        let text = format!("{:?}: {}\n{:?} {headers:?}", status.code(), status.message(), status.details());
        self.note_text(what, &text);
    }
}

/// Contract: what calls and watches are told.
#[tokio::test]
async fn messages() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    let mut record = Record::default();
    acme.put("tenant_config_k", &json!({"a": 1})).await.expect(201);
    acme.put("secret_config_k", &json!("hush")).await.expect(201);
    api.settled().await;
    let instance = Instance::start(&api, &[]).await;
    let grpc = instance.tenant(&acme);
    // All tokens at once: the clock of the service stands still, that of the issuer does not.
    let writer = instance.with_token(&api.suite.token("acme", "config/write").expect("a token"));
    let reader = instance.with_token(&api.suite.token("acme", "config/read").expect("a token"));

    record.note_text("GetConfig", &format!("{:#?}", grpc.get("tenant_config_k", 0).await.expect("an entry")));
    let batch = grpc.batch_get(&["tenant_config_k", "tenant_config_x"]).await.expect("a batch");
    record.note_text("BatchGetConfig", &format!("{batch:#?}"));
    let list = v1::ListConfigRequest { page_size: 1, ..v1::ListConfigRequest::default() };
    let mut page = grpc.list(list.clone()).await.expect("a page");
    page.next_page_token = shape(&page.next_page_token);
    record.note_text("ListConfig", &format!("{page:#?}"));
    let page = reader.list(list).await.expect("a page");
    record.note_text("ListConfig without the right to secrets", &format!("{:#?}", page.entries));

    let (mut watching, snapshot) = grpc.watch().await;
    record.note_text("WatchConfig: a snapshot", &format!("{snapshot:#?}"));
    acme.delete("tenant_config_k").await.expect(200);
    record.note_text("WatchConfig: a delete", &format!("{:#?}", watching.update().await));
    api.suite.emulator().set_event_fate(EventFate::Lost);
    edit(&api, &acme.parameter_name("back_config_", "l"), "a,b", ParameterType::StringList).await;
    api.settled().await;
    acme.put("back_config_l", &json!("ours")).await.expect(201);
    record.note_text("WatchConfig: a put", &format!("{:#?}", watching.update().await));
    // Nobody was told of the put, so that nothing else is found beside the refusal.
    let told = changed("acme", &["back_config_l"]);
    api.suite.invoke("config-refresh", told).await.expect("it is worked off");
    record.note_text("WatchConfig: its store refuses it", &format!("{:#?}", watching.update().await));
    let position = watching.position.clone().expect("a position");
    let position = v1::Position { token: shape(&position.token), ..position };
    record.note_text("WatchConfig: a position", &format!("{position:#?}"));
    assert_recorded!("stream_messages", record);

    let mut record = Record::default();
    let no_secret = reader.get("secret_config_k", 0).await;
    record.status("No right to secrets", &no_secret.expect_err("no right"));
    record.status("No value", &grpc.get("tenant_config_x", 0).await.expect_err("no value"));
    record.status("No key", &grpc.get("x", 0).await.expect_err("no key"));
    record.status("No keys", &grpc.batch_get(&[]).await.expect_err("no keys"));
    let ahead = grpc.get("back_config_l", 1_000).await;
    record.status("A revision that is not reached", &ahead.expect_err("not yet"));
    let token = v1::ListConfigRequest { page_token: "x".to_owned(), ..v1::ListConfigRequest::default() };
    record.status("A page token that is none", &grpc.list(token).await.expect_err("no token"));
    record.status("No right to read", &writer.get("tenant_config_k", 0).await.expect_err("no right"));
    let nobody = instance.with_token("not.a.token");
    record.status("No valid token", &nobody.get("tenant_config_k", 0).await.expect_err("no token"));
    drop(watching);
    assert_recorded!("stream_statuses", record);
    instance.stream.stop().await;
    api.stop().await;
}

/// A text of the same length and with the same parts.
fn shape(text: &str) -> String {
    text.chars().map(|character| if character == '.' { '.' } else { 'x' }).collect()
}

/// Contract: what there is to measure, in words: each metric with its labels, its unit and its
/// help.
#[tokio::test]
async fn metrics() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    acme.put("tenant_config_k", &json!(1)).await.expect(201);
    let instance = Instance::start(&api, &[("METRICS_ADDRESS", "127.0.0.1:0")]).await;
    let grpc = instance.tenant(&acme);
    grpc.get("tenant_config_k", 0).await.expect("an entry");
    let (status, page) = instance.page("/metrics").await;
    let lines = page.lines().map(|line| match line.rsplit_once(' ') {
        Some((name, value)) if !line.starts_with('#') && value.parse::<f64>().is_ok() => format!("{name} (a number)"),
        _ => line.to_owned(),
    });
    let mut record = Record::default();
    record.note_text(&format!("/metrics: {status}"), &lines.collect::<Vec<_>>().join("\n"));
    let (status, page) = instance.page("/nothing").await;
    record.note_text(&format!("/nothing: {status}"), &page);
    assert_recorded!("stream_metrics", record);
    instance.stream.stop().await;
    api.stop().await;
}
