//! What a text is: how it lies in Parameter Store, what comes back of it, and what an edit of it is
//! taken for.

use emulator::{EventFate, Fault};
use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Answer, Api, Call, Tenant},
    operator::{edit, kind_of, remove},
    stream::Instance,
};

const TAGS: [&str; 3] = ["param_config_", "back_config_", "secret_config_"];
/// As `ssh-keygen`, `openssl` and editors write it.
const PEM: &str = "-----BEGIN X-----\nA+/=\n-----END X-----\n";

/// The values of a history, newest first.
fn values(history: &Answer) -> Vec<Value> {
    history.each("versions", "value")
}

/// That the key shows `text` wherever a value is shown: alone, by its version, in history, batch
/// and list.
async fn shows(tenant: &Tenant<'_>, key: &str, text: &str) {
    let read = tenant.get(key).await.expect(200);
    let version = read.number("version");
    assert_eq!(read.body["value"], text, "{key}");
    assert_eq!(tenant.get(&format!("{key}?version={version}")).await.expect(200).body["value"], text, "{key}");
    assert_eq!(values(&tenant.history(key).await.expect(200))[0], text, "{key}");
    assert_eq!(tenant.batch_get(&[key]).await.expect(200).each("found", "value"), [text], "{key}");
    assert_eq!(tenant.list(&format!("prefix={key}")).await.expect(200).each("entries", "value"), [text], "{key}");
}

/// Promise: a text lies raw in Parameter Store without the white space around it, so that direct
/// readers find what they expect, and the API gives it back byte for byte: its old versions, what
/// is rolled back to, and over gRPC, too. Only what cannot lie raw is JSON.
#[tokio::test]
async fn a_text_lies_raw_without_its_outer_white_space() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let texts = [
        (PEM, PEM.trim_end()),
        ("a: 1\r\nb:\r\n  - 2\r\n\r\n", "a: 1\r\nb:\r\n  - 2"),
        (" \t\u{a0}x = \"y\"\u{2028}\u{b}\n", "x = \"y\""),
        ("\u{feff}key=value\n", "key=value"),
        ("plain", "plain"),
        ("", "\"\""),
        (" \n ", "\" \\n \""),
        ("{{ssm:x}}\n", "\"{\\u007bssm:x}}\\n\""),
    ];
    let lies = async |tag: &str, raw: &str| {
        let stored = api.parameter(&acme.parameter_name(tag, "k")).await;
        assert_eq!(stored.map(|(stored, _)| stored).as_deref(), Some(raw), "{tag}");
    };
    for (text, raw) in texts {
        for tag in TAGS {
            acme.put(&format!("{tag}k"), &json!(text)).await;
        }
        api.settled().await;
        for tag in TAGS {
            lies(tag, raw).await;
            shows(&acme, &format!("{tag}k"), text).await;
        }
    }
    let all: Vec<_> = texts.iter().rev().map(|(text, _)| json!(text)).collect();
    for tag in TAGS {
        assert_eq!(values(&acme.history(&format!("{tag}k")).await.expect(200)), all, "{tag}");
        acme.roll_back(&format!("{tag}k"), 1).await.expect(200);
    }
    api.settled().await;
    for tag in TAGS {
        lies(tag, PEM.trim_end()).await;
        shows(&acme, &format!("{tag}k"), PEM).await;
    }
    let instance = Instance::start(&api, &[]).await;
    for tag in TAGS {
        assert_eq!(instance.tenant(&acme).value(&format!("{tag}k")).await.0, json!(PEM).to_string(), "{tag}");
    }
    instance.stream.stop().await;
    api.stop().await;
}

/// Promise: where a value that Parameter Store alone has is put again, because what nobody
/// committed lay on top of it, its white space stays, also in the version that it is; and so where
/// its locator moves from a value that lay as JSON.
#[tokio::test]
async fn white_space_stays_where_a_value_is_put_again() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    for (key, name) in [("secret_config_k", "k"), ("secret_config_l", "l")] {
        let name = acme.parameter_name("secret_config_", name);
        acme.put(key, &json!(PEM)).await.expect(201);
        api.suite.emulator().faults().inject("PutParameter", Fault::ReplyLost, 1);
        acme.put(key, &json!("never committed")).await.expect_problem(503, "unavailable");
        api.sweep(1).await;
        assert_eq!(api.parameter(&name).await, Some((PEM.trim_end().to_owned(), 3)));
        shows(&acme, key, PEM).await;
    }
    // The same after an edit that begins with what is trimmed of our own puts, and may not be of
    // others'.
    let name = acme.parameter_name("secret_config_", "k");
    edit(&api, &name, "\u{feff}theirs", kind_of("secret_config_")).await;
    api.settled().await;
    shows(&acme, "secret_config_k", "\u{feff}theirs").await;
    api.suite.emulator().faults().inject("PutParameter", Fault::ReplyLost, 1);
    acme.put("secret_config_k", &json!("never committed")).await.expect_problem(503, "unavailable");
    api.sweep(1).await;
    assert_eq!(api.parameter(&name).await.map(|(stored, _)| stored).as_deref(), Some("theirs"));
    shows(&acme, "secret_config_k", "\u{feff}theirs").await;
    api.stop().await;
}

/// Promise: what counts against Parameter Store's limit is the text as it lies there: a file of
/// 4,051 bytes is taken though its quotes and escapes would pass 4,096, and so is white space
/// around 4,096 bytes; what is one byte too long is refused by name.
#[tokio::test]
async fn the_raw_text_counts() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let file = |bytes: usize| {
        let lines = "spring.datasource.url=\"jdbc:postgresql://db\"\n".repeat(100);
        format!("{}\n", &lines[..bytes - 1])
    };
    for tag in TAGS {
        for (index, text) in [file(4_043), file(4_051), format!("\n{}\n\n", "v".repeat(4_096))].iter().enumerate() {
            let key = format!("{tag}f{index}");
            let written = acme.put(&key, &json!(text)).await.expect(201);
            assert!(json!(text).to_string().len() > 4_096, "quoting alone passes the limit");
            api.settled().await;
            let stored = api.parameter(&acme.parameter_name(tag, &format!("f{index}"))).await;
            assert_eq!(stored.map(|(stored, _)| stored).as_deref(), Some(text.trim()), "{}", written.text);
            shows(&acme, &key, text).await;
        }
        let refused = acme.put(&format!("{tag}g"), &json!(format!("{}\n", "v".repeat(4_097)))).await;
        let refused = refused.expect_problem(413, "too-large");
        assert!(refused.text.contains("4097 bytes"), "{}", refused.text);
    }
    api.stop().await;
}

/// Promise: of a secret the ledger has the white space around it and nothing else.
#[tokio::test]
async fn of_a_secret_the_ledger_keeps_white_space_alone() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    acme.put("secret_config_k", &json!(format!("\n {PEM}"))).await.expect(201);
    for sort_key in ["ENTRY#secret_config_k", "VERSION#secret_config_k#00000000000000000001"] {
        let item = api.item(&acme, sort_key).await;
        let trimmed: Vec<_> = item["trimmed"].as_l().expect("a list").iter().map(|one| one.as_s().cloned()).collect();
        assert_eq!(trimmed, [Ok("\n ".to_owned()), Ok("\n".to_owned())]);
        assert!(!format!("{item:?}").contains("BEGIN"), "{item:?}");
    }
    // Entries from before are read as what they are: nothing was trimmed of them.
    let old = "VERSION#secret_config_k#00000000000000000001";
    api.remove_attribute(&acme, old, "trimmed").await;
    let read = acme.get("secret_config_k?version=1").await.expect(200);
    assert_eq!(read.body["value"], PEM.trim_end());
    api.stop().await;
}

/// Promise: whether an edit in Parameter Store is text or JSON is up to what the API wrote last,
/// and to no edit in between: of text all is text, and of JSON all that can be read is JSON. A
/// string that had to lie quoted may be edited with its quotes or without.
#[tokio::test]
async fn an_edit_is_what_the_api_wrote_last() {
    let api = Api::start().await;
    let cases: [(&str, &[(&str, &str)]); 6] = [
        (r#""hello\n""#, &[("8080", r#""8080""#), (r#"{"a":1}"#, r#""{\"a\":1}""#), (r#""q""#, r#""\"q\"""#)]),
        (
            "8080",
            &[
                ("off", r#""off""#),
                ("9091", "9091"),
                (r#""x""#, r#""x""#),
                ("0.10000000000000001", "0.10000000000000001"),
            ],
        ),
        (
            r#"{"a":1}"#,
            &[
                (r#"{"a": 2}"#, r#"{"a":2}"#),
                (r#"{"a": 3"#, r#""{\"a\": 3""#),
                (r#"{"a": 1, "a": 2}"#, r#""{\"a\": 1, \"a\": 2}""#),
                (r#"{"a": 0.30000000000000004}"#, r#"{"a":0.30000000000000004}"#),
                (r#"{"a": 1e400}"#, r#""{\"a\": 1e400}""#),
                ("[true]", "[true]"),
            ],
        ),
        (r#""""#, &[(r#""x""#, r#""x""#), ("8080", r#""8080""#), (r#""y\n""#, r#""y\n""#), ("[1]", r#""[1]""#)]),
        (r#""{{a}}""#, &[(r#""{\u007bb}}""#, r#""{{b}}""#), (r#""b""#, r#""b""#), ("b", r#""b""#)]),
        ("null", &[("nil", r#""nil""#), ("null", "null")]),
    ];
    let acme = api.tenant("acme");
    // One whose values are in the ledger, and one whose values are in Parameter Store alone.
    let tags = ["param_config_", "secret_config_"];
    let keys = || tags.iter().flat_map(|tag| (0..cases.len()).map(move |index| (*tag, index, format!("k{index}"))));
    for (tag, index, name) in keys() {
        let put = acme.call(Method::PUT, &format!("/v1/config/{tag}{name}"));
        put.raw(format!(r#"{{"value":{}}}"#, cases[index].0)).await.expect(201);
    }
    api.settled().await;
    for round in 0..6 {
        let edited = || keys().filter_map(|(tag, index, name)| Some((tag, name, cases[index].1.get(round)?)));
        for (tag, name, (text, _)) in edited() {
            edit(&api, &acme.parameter_name(tag, &name), text, kind_of(tag)).await;
        }
        api.settled().await;
        for (tag, name, (text, expected)) in edited() {
            let read = acme.get(&format!("{tag}{name}")).await.expect(200);
            assert!(read.text.contains(&format!(r#""value":{expected},"#)), "{tag}{name}, {text}: {}", read.text);
            assert_eq!(read.body["author"], "external");
        }
    }
    api.stop().await;
}

/// Makes a request of each tag, and waits until all that it set off is done.
async fn answered(api: &Api, calls: [Call<'_>; TAGS.len()]) {
    for call in calls {
        call.await.expect(200);
    }
    api.settled().await;
}

/// Promise: each way to write through the API says anew what the key's values are, and nothing else
/// does: no delete, no removal, no adoption. What the API never wrote is text.
#[tokio::test]
async fn only_the_api_says_what_a_keys_values_are() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let edited = async |text: &str, expected: Value, what: &str| {
        for tag in TAGS {
            edit(&api, &acme.parameter_name(tag, "k"), text, kind_of(tag)).await;
        }
        api.settled().await;
        for tag in TAGS {
            assert_eq!(acme.get(&format!("{tag}k")).await.expect(200).body["value"], expected, "{tag}: {what}");
        }
    };
    edited("1", json!("1"), "it was adopted").await;
    answered(&api, TAGS.map(|tag| acme.put(&format!("{tag}k"), &json!({"a": 1})))).await;
    edited("2", json!(2), "JSON was put").await;
    answered(&api, TAGS.map(|tag| acme.put(&format!("{tag}k"), &json!("text")))).await;
    edited("3", json!("3"), "text was put").await;
    answered(&api, TAGS.map(|tag| acme.roll_back(&format!("{tag}k"), 2))).await;
    edited("4", json!(4), "JSON was rolled back to").await;
    answered(&api, TAGS.map(|tag| acme.delete(&format!("{tag}k")))).await;
    edited("5", json!(5), "it was deleted").await;
    for tag in TAGS {
        remove(&api, &acme.parameter_name(tag, "k")).await;
    }
    api.settled().await;
    assert_eq!(acme.list("").await.expect(200).each("entries", "key"), [] as [Value; 0]);
    edited("off", json!("off"), "it was removed").await;
    edited("6", json!(6), "it was removed, and an edit did not parse").await;
    let key = "param_config_k";
    acme.transaction(&json!([{"op": "put", "key": key, "value": "text"}])).await.expect(200);
    api.settled().await;
    edit(&api, &acme.parameter_name("param_config_", "k"), "7", kind_of("param_config_")).await;
    api.settled().await;
    assert_eq!(acme.get(key).await.expect(200).body["value"], "7", "text was put in a transaction");
    api.stop().await;
}

/// Promise: a value that Parameter Store alone has is found by the history where `GetParameters`
/// does not show the time of its version as exactly: by one call more for each key, and only then.
/// What is of another life of the name is not taken for it.
#[tokio::test]
async fn less_exact_times_hide_no_value() {
    let api = Api::start().await;
    let acme = api.tenant("acme");
    let keys = ["secret_config_a", "secret_config_b"];
    for key in keys {
        acme.put(key, &json!(format!("{key}, hush\n"))).await.expect(201);
    }
    api.settled().await;
    let exact = api.calls_during("GetParameterHistory", acme.get(keys[0])).await;
    assert_eq!((exact.0, &exact.1.body["value"]), (0, &json!("secret_config_a, hush\n")));

    // Another instance of everything, so that nothing is in memory.
    let globex = api.tenant("globex");
    for key in keys {
        globex.put(key, &json!(format!("{key}, hush\n"))).await.expect(201);
    }
    api.settled().await;
    api.suite.emulator().faults().inject("GetParameters", Fault::WholeSeconds, usize::MAX);
    let (history, page) = api.calls_during("GetParameterHistory", globex.list("")).await;
    let expected = keys.map(|key| json!(format!("{key}, hush\n")));
    assert_eq!((page.each("entries", "value"), history), (expected.to_vec(), 2), "{}", page.text);
    assert_eq!(globex.get(keys[1]).await.expect(200).body["value"], expected[1]);
    let instance = Instance::start(&api, &[]).await;
    assert_eq!(instance.tenant(&globex).value(keys[1]).await.0, expected[1].to_string());
    instance.stream.stop().await;

    api.suite.emulator().set_event_fate(EventFate::Lost);
    let initech = api.tenant("initech");
    initech.put(keys[0], &json!("ours")).await.expect(201);
    let name = initech.parameter_name("secret_config_", "a");
    remove(&api, &name).await;
    edit(&api, &name, "another life", kind_of("secret_config_")).await;
    let missing = initech.get(keys[0]).await;
    assert!(missing.status != 200 && !missing.text.contains("another life"), "{}", missing.text);
    api.stop().await;
}
