//! What stays hidden where something is shown for debugging.

use std::{collections::HashMap, fmt::Debug};

use super::*;
use crate::{
    cache::Resolved,
    clock::Timestamp,
    fixture,
    model::{
        comment::Comment,
        entry::{Author, CommitId, Entry, Held, Precondition, State},
        value::ConfigValue,
    },
    read::{At, Fetched},
    write::{Operation, WriteRequest},
};

const CANARY: &str = "canary-2c9e41";

#[track_caller]
fn hides(shown: impl Debug) {
    for shown in [format!("{shown:?}"), format!("{shown:#?}")] {
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

/// Promise: nothing that holds a value, a token or claims shows them for debugging: not what came
/// in, not what is on its way to a store or to a caller, not what is remembered.
#[tokio::test]
async fn nothing_that_holds_a_secret_shows_it() {
    let body = json!({"value": CANARY, "comment": CANARY}).to_string();
    let put = |value: &str| json!({"op": "put", "key": "secret_config_s", "value": value}).to_string();
    let transaction = format!(r#"{{"operations":[{}],"comment":"{CANARY}"}}"#, put(CANARY));
    let headers = json!({"authorization": format!("Bearer {CANARY}"), "cookie": CANARY, "idempotency-key": CANARY});
    let claims = json!({"custom:tenantId": "acme", "scope": "config/read", "sub": CANARY, "email": CANARY});
    let context = json!({"http": {"method": "PUT"}, "authorizer": {"jwt": {"claims": claims}}});
    for (body, is_base64) in
        [(body.clone(), false), (BASE64_STANDARD.encode(&body), true), (transaction.clone(), false)]
    {
        let event = event(json!({
            "rawPath": "/v1/config/secret_config_s", "rawQueryString": format!("access_token={CANARY}"), "headers": headers,
            "requestContext": context, "body": body, "isBase64Encoded": is_base64,
        }));
        assert!(!format!("{event:?}").contains(&body));
        hides(&event);
        hides(event.idempotency(&body).unwrap());
    }
    hides(body::parse::<RollbackBody>(&json!({"version": 1, "comment": CANARY}).to_string(), "").unwrap());
    hides(event(json!({"rawQueryString": format!("comment={CANARY}")})).query(&["comment"]).unwrap());
    let with_header = event(json!({"headers": headers}));
    hides(Presented::Authorization(with_header.header("authorization").unwrap()));
    let claims = HashMap::from([("sub".to_owned(), CANARY.to_owned())]);
    hides(Presented::Checked { claims: &claims, authorization: CANARY });

    hides(body::parse::<PutBody>(&body, "").unwrap());
    let transaction: TransactionBody = body::parse(&transaction, "").unwrap();
    hides(&transaction);
    let operation = transaction.operations().next().unwrap().unwrap();
    hides(&operation);
    hides(operation.value().unwrap());
    hides(body::parse::<BatchGetBody>(&format!(r#"{{"keys":["{CANARY}"]}}"#), "").unwrap());

    let key = ConfigKey::parse("secret_config_s", &TagRoutes::default()).unwrap();
    let value = ConfigValue::from_text(CANARY);
    let entry = Entry {
        key: key.clone(),
        version: Version::new(1),
        revision: Revision::new(1),
        author: Author::new("alice"),
        comment: Comment::parse(CANARY).unwrap(),
        modified_at: Timestamp::from_millis(0),
        commit: CommitId::from_stored("c"),
        state: State::Live(Held::Value(value.clone())),
        superseded: false,
        refusal: None,
    };
    hides(WriteRequest { key, precondition: Precondition::default(), operation: Operation::Put(value.clone()) });
    let fetched = Fetched { entry: entry.clone(), value: Some(value.clone()), withheld: false };
    hides(VersionView::from(&fetched));
    hides(At { revision: Revision::new(1), age: None, stale: false, found: fetched });
    let resolved = Resolved { entry, value };
    let view = EntryView::from(&resolved);
    hides(&view);
    assert!(serde_json::to_string(&view).unwrap().contains(CANARY), "there is something to hide");
    hides(&resolved);

    let secret = [("AWS_SECRET_ACCESS_KEY", CANARY), ("AWS_SESSION_TOKEN", CANARY)];
    let settings = fixture::settings(&secret).unwrap();
    hides(&settings);
    hides(crate::backend::Backend::new(&settings.backend, &settings.clock).unwrap());
    hides(fixture::reader(&settings).await);
}
