//! Versions, their labels, and their end.

use std::collections::BTreeSet;

use aws_sdk_ssm::types::{ParameterHistory, ParameterType};
use aws_smithy_types::date_time::DateTime;

use super::put;
use crate::clients::{Failure, Outcome, code, holds, same};
use crate::conformance::{Aws, cases};

cases! {
    history_goes_from_old_to_new: [],
    history_pages: [Ministack: "takes more than 50 a page"],
    a_hundred_versions_are_kept: [Ministack: "keeps all"],
    a_label_on_the_oldest_version_stops_writes: [Ministack: "keeps all versions"],
    a_label_moves: [],
    bad_labels_are_named: [Ministack: "takes any label"],
    a_version_has_at_most_ten_labels: [Ministack: "takes any number"],
    a_deleted_parameter_starts_again_at_one: [],
}

async fn history(aws: &Aws, name: &str) -> Result<Vec<i64>, Failure> {
    let mut versions = Vec::new();
    let mut token = None;
    loop {
        let page = aws.ssm.get_parameter_history().name(name).set_next_token(token).send().await?;
        holds("at most 50 a page", page.parameters().len() <= 50)?;
        versions.extend(page.parameters().iter().map(ParameterHistory::version));
        token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
        if token.is_none() {
            return Ok(versions);
        }
    }
}

/// Guards: history has each version's own value, description, labels and time, oldest first.
async fn history_goes_from_old_to_new(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for (value, description) in [("1", "first"), ("2", "second")] {
        let put = aws.ssm.put_parameter().name(&name).value(value).description(description).overwrite(true);
        put.r#type(ParameterType::String).send().await?;
    }
    aws.ssm.label_parameter_version().name(&name).parameter_version(1).labels("old").send().await?;
    let answer = aws.ssm.get_parameter_history().name(&name).send().await?;
    let entries: Vec<_> = answer
        .parameters()
        .iter()
        .map(|entry| (entry.version(), entry.value(), entry.description(), entry.labels().len()))
        .collect();
    same!("entries", entries, [(1, Some("1"), Some("first"), 1), (2, Some("2"), Some("second"), 0),],)
}

/// Guards: history pages without losing a version.
async fn history_pages(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for version in 1..=60 {
        aws.put_parameter(&name, &version.to_string()).await?;
    }
    same!("versions", history(aws, &name).await?, (1..=60).collect::<Vec<_>>(),)?;
    let too_many = aws.ssm.get_parameter_history().name(&name).max_results(51).send();
    same!("51 a page", code(too_many).await, "ValidationException")
}

/// Guards: 100 versions are kept, the oldest goes.
async fn a_hundred_versions_are_kept(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for version in 1..=101 {
        same!("version", aws.put_parameter(&name, &version.to_string()).await?, version,)?;
    }
    same!("versions", history(aws, &name).await?, (2..=101).collect::<Vec<_>>(),)?;
    let oldest = aws.ssm.get_parameter().name(format!("{name}:1")).send();
    same!("the first", code(oldest).await, "ParameterVersionNotFound")
}

/// Guards: a label on the oldest of 100 versions makes the next write fail, and moving it lets it
/// through.
async fn a_label_on_the_oldest_version_stops_writes(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for version in 1..=100 {
        aws.put_parameter(&name, &version.to_string()).await?;
    }
    aws.ssm.label_parameter_version().name(&name).parameter_version(1).labels("keep").send().await?;
    let next = put(aws, &name, "101", None, None).await;
    same!("with the label", next, "ParameterMaxVersionLimitExceeded")?;
    aws.ssm.label_parameter_version().name(&name).parameter_version(50).labels("keep").send().await?;
    same!("moved", put(aws, &name, "101", None, None).await, "ok")
}

/// Guards: a label is on one version at a time, without a version on the newest.
async fn a_label_moves(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "one").await?;
    aws.put_parameter(&name, "two").await?;
    let label = |version: Option<i64>| {
        aws.ssm.label_parameter_version().name(&name).set_parameter_version(version).labels("live").send()
    };
    label(Some(1)).await?;
    same!("before", aws.value(&format!("{name}:live")).await?, "one")?;
    same!("labelled", label(None).await?.parameter_version(), 2)?;
    same!("after", aws.value(&format!("{name}:live")).await?, "two")
}

/// Guards: labels that break the rules are named, the good ones are put.
async fn bad_labels_are_named(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "one").await?;
    let label = aws.ssm.label_parameter_version().name(&name);
    let answer = label.labels("good").labels("1st").labels("aws-x").labels("a b").send().await?;
    let invalid: BTreeSet<_> = answer.invalid_labels().iter().map(String::as_str).collect();
    same!("invalid", invalid, BTreeSet::from(["1st", "a b", "aws-x"]))?;
    same!("good", aws.value(&format!("{name}:good")).await?, "one")
}

/// Guards: 10 labels a version.
async fn a_version_has_at_most_ten_labels(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "one").await?;
    let labels = (0..10).map(|n| format!("l{n}")).collect();
    aws.ssm.label_parameter_version().name(&name).set_labels(Some(labels)).send().await?;
    let one_more = aws.ssm.label_parameter_version().name(&name).labels("l10").send();
    same!("one more", code(one_more).await, "ParameterVersionLabelLimitExceeded",)
}

/// Guards: a parameter that is deleted and created again has another life: version 1, no old
/// versions, a later time.
async fn a_deleted_parameter_starts_again_at_one(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "one").await?;
    aws.put_parameter(&name, "two").await?;
    let time = async || -> Result<Option<DateTime>, Failure> {
        let answer = aws.ssm.get_parameter().name(&name).send().await?;
        Ok(answer.parameter().and_then(|parameter| parameter.last_modified_date()).copied())
    };
    let before = time().await?;
    aws.ssm.delete_parameter().name(&name).send().await?;
    same!("version", aws.put_parameter(&name, "new").await?, 1)?;
    same!("history", history(aws, &name).await?, [1])?;
    holds("the time is later", before.is_some() && time().await? > before)
}
