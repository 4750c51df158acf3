//! Data survives: a restart, and a process that is killed right after an answer.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use aws_sdk_ssm::types::ParameterType;
use emulator::Options;

use crate::clients::{Clients, Outcome, start, text};

async fn write(aws: &Clients) -> Outcome {
    aws.table("table").await?;
    let put = aws.dynamodb.put_item().table_name("table").item("pk", text("a")).item("sk", text("1"));
    put.item("v", text("kept")).send().await?;
    aws.put_parameter("/a", "one").await?;
    aws.put_parameter("/a", "two").await?;
    let secret = aws.ssm.put_parameter().name("/s").value("hush").r#type(ParameterType::SecureString);
    secret.send().await?;
    aws.ssm.label_parameter_version().name("/a").parameter_version(1).labels("first").send().await?;
    Ok(())
}

async fn check(aws: &Clients) -> Outcome {
    let get = aws.dynamodb.get_item().table_name("table").key("pk", text("a")).key("sk", text("1"));
    let item = get.send().await?;
    assert_eq!(item.item().and_then(|item| item.get("v")), Some(&text("kept")));
    assert_eq!(aws.value("/a").await?, "two");
    assert_eq!(aws.value("/a:first").await?, "one");
    let secret = aws.ssm.get_parameter().name("/s").with_decryption(true).send().await?;
    assert_eq!(secret.parameter().and_then(|parameter| parameter.value()), Some("hush"));
    assert_eq!(aws.put_parameter("/a", "three").await?, 3);
    Ok(())
}

/// Guards: stop and start again, and everything is there.
#[tokio::test]
async fn data_survives_a_restart() -> Outcome {
    let data = tempfile::tempdir()?;
    let options = Options { data: Some(data.path().join("deeper")), ..Options::default() };
    let (emulator, aws) = start(options.clone()).await;
    write(&aws).await?;
    emulator.stop().await;
    let (_emulator, aws) = start(options).await;
    check(&aws).await
}

/// Guards: what was answered is there after `kill -9`.
#[tokio::test]
async fn data_survives_being_killed() -> Outcome {
    let data = tempfile::tempdir()?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_emulator"))
        .args(["--port", "0", "--data"])
        .arg(data.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut url = String::new();
    let out = child.stdout.take().expect("piped");
    BufReader::new(out).read_line(&mut url)?;
    let written = write(&Clients::new(url.trim())).await;
    child.kill()?;
    child.wait()?;
    written?;
    let (_emulator, aws) = start(Options { data: Some(data.path().to_owned()), ..Options::default() }).await;
    check(&aws).await
}

/// Guards: a file of a newer emulator, or one that is none at all, is left alone with a clear
/// error.
#[tokio::test]
async fn a_foreign_file_is_left_alone() -> Outcome {
    let data = tempfile::tempdir()?;
    std::fs::write(
        data.path().join("parameters.sqlite"),
        "this is no database, and long enough to be seen as none".repeat(20),
    )?;
    let options = Options { data: Some(data.path().to_owned()), ..Options::default() };
    let error = emulator::Emulator::start(options).await.expect_err("refused");
    assert!(error.to_string().starts_with("cannot open Parameter Store"), "{error}");
    Ok(())
}
