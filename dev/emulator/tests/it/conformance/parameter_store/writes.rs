//! What may be put, and what is refused.

use aws_sdk_ssm::types::{ParameterTier, ParameterType};

use super::put;
use crate::clients::{Failure, Outcome, code, holds, same};
use crate::conformance::{Aws, cases};

cases! {
    versions_count_from_one: [],
    a_parameter_is_not_overwritten_unasked: [],
    a_new_parameter_needs_a_type: [Moto: "creates a parameter without a type"],
    a_type_never_changes: [Moto: "changes the type", Ministack: "changes the type"],
    a_value_is_not_empty: [Ministack: "does not check it"],
    outer_white_space_of_a_value_is_trimmed: [Moto: "keeps it", Ministack: "keeps it"],
    a_value_holds_no_reference: [Moto: "does not check it", Ministack: "does not check it"],
    a_standard_value_has_at_most_4_kb: [Moto: "does not enforce sizes", Ministack: "does not enforce sizes"],
    an_advanced_value_has_at_most_8_kb: [Moto: "does not enforce sizes", Ministack: "does not enforce sizes"],
    intelligent_tiering_goes_by_size: [Moto: "answers Intelligent-Tiering as the tier", Ministack: "answers Intelligent-Tiering as the tier"],
    an_advanced_parameter_stays_advanced: [Moto: "goes back to Standard", Ministack: "goes back to Standard"],
    a_name_is_checked: [Moto: "takes spaces", Ministack: "takes spaces"],
    a_name_has_at_most_15_levels: [Moto: "does not enforce levels", Ministack: "does not enforce levels"],
    delete_parameters_names_what_is_missing: [],
    tags_are_put_and_listed: [],
    a_pattern_has_to_match: [Moto: "does not check it", Ministack: "does not check it"],
}

async fn sizes(aws: &Aws, tier: ParameterTier, most: usize) -> Outcome {
    for (bytes, expected) in [(most, "ok"), (most + 1, "ValidationException")] {
        let name = aws.parameter(&format!("{bytes}"));
        let actual = put(aws, &name, &"x".repeat(bytes), Some(ParameterType::String), Some(tier.clone())).await;
        same!("size", (bytes, actual.as_str()), (bytes, expected))?;
    }
    Ok(())
}

/// Guards: each write takes the next version.
async fn versions_count_from_one(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for expected in 1..=3 {
        same!("version", aws.put_parameter(&name, &format!("v{expected}")).await?, expected,)?;
    }
    let answer = aws.ssm.get_parameter().name(&name).send().await?;
    let parameter = answer.parameter().ok_or_else(|| Failure("no parameter".to_owned()))?;
    same!("version", parameter.version(), 3)?;
    same!("value", parameter.value(), Some("v3"))?;
    let arn = parameter.arn().unwrap_or_default();
    holds(
        "the ARN ends with the name",
        arn.starts_with("arn:aws:ssm:us-east-1:") && arn.ends_with(&format!(":parameter{name}")),
    )
}

/// Guards: `Overwrite` is false by default, and then only creates.
async fn a_parameter_is_not_overwritten_unasked(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let put = |value: &str| aws.ssm.put_parameter().name(&name).value(value).r#type(ParameterType::String).send();
    same!("first", code(put("1")).await, "ok")?;
    same!("second", code(put("2")).await, "ParameterAlreadyExists")?;
    same!("value", aws.value(&name).await?, "1")
}

/// Guards: "You must specify a parameter type when creating a parameter"; not when updating (API
/// reference).
async fn a_new_parameter_needs_a_type(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let new = put(aws, &name, "v", None, None).await;
    if new == "ok" {
        // A parameter without a type would break the lists of other cases on that server.
        aws.ssm.delete_parameter().name(&name).send().await?;
    }
    same!("new", new.as_str(), "ValidationException")?;
    aws.put_parameter(&name, "v").await?;
    same!("update", put(aws, &name, "w", None, None).await, "ok")
}

/// Guards: a `String` cannot become a `SecureString`.
async fn a_type_never_changes(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "v").await?;
    let changed = put(aws, &name, "w", Some(ParameterType::SecureString), None).await;
    same!("code", changed, "HierarchyTypeMismatchException")
}

/// Guards: an empty value is refused.
async fn a_value_is_not_empty(aws: &Aws) -> Outcome {
    same!("code", put(aws, &aws.parameter("a"), "", Some(ParameterType::String), None,).await, "ValidationException",)
}

/// Guards: what is around a value goes away without a word.
async fn outer_white_space_of_a_value_is_trimmed(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "  in side \n").await?;
    same!("value", aws.value(&name).await?, "in side")
}

/// Guards: "You can't include values wrapped in double brackets" (API reference).
async fn a_value_holds_no_reference(aws: &Aws) -> Outcome {
    let refused = put(aws, &aws.parameter("a"), "a {{ssm:b}} c", Some(ParameterType::String), None).await;
    same!("reference", refused, "ValidationException")?;
    same!("braces alone", put(aws, &aws.parameter("b"), "{\"a\":{}}", Some(ParameterType::String), None,).await, "ok",)
}

/// Guards: 4 KB in the standard tier.
async fn a_standard_value_has_at_most_4_kb(aws: &Aws) -> Outcome {
    sizes(aws, ParameterTier::Standard, 4_096).await
}

/// Guards: 8 KB in the advanced tier.
async fn an_advanced_value_has_at_most_8_kb(aws: &Aws) -> Outcome {
    sizes(aws, ParameterTier::Advanced, 8_192).await
}

/// Guards: intelligent tiering takes the standard tier as long as that is enough.
async fn intelligent_tiering_goes_by_size(aws: &Aws) -> Outcome {
    for (bytes, expected) in [(4_096, ParameterTier::Standard), (4_097, ParameterTier::Advanced)] {
        let answer = aws
            .ssm
            .put_parameter()
            .name(aws.parameter(&format!("{bytes}")))
            .value("x".repeat(bytes))
            .r#type(ParameterType::String)
            .tier(ParameterTier::IntelligentTiering)
            .send()
            .await?;
        same!("tier", answer.tier(), Some(&expected))?;
    }
    Ok(())
}

/// Guards: "you can't revert an advanced parameter to a standard parameter" (API reference).
async fn an_advanced_parameter_stays_advanced(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let tiers = [
        (ParameterTier::Standard, "ok"),
        (ParameterTier::Advanced, "ok"),
        (ParameterTier::Standard, "ValidationException"),
    ];
    for (tier, expected) in tiers {
        same!("tier", put(aws, &name, "v", Some(ParameterType::String), Some(tier)).await, expected,)?;
    }
    Ok(())
}

/// Guards: the documented rules for names.
async fn a_name_is_checked(aws: &Aws) -> Outcome {
    let too_long = format!("/{}", "x".repeat(1_011));
    let bad = ["/a b", "/a:1", "a/b", "/ä", "awsTest", "SSM-test", "/ssm/a", &too_long];
    for name in bad {
        let actual = put(aws, name, "v", Some(ParameterType::String), None).await;
        same!("name", (name, actual.as_str()), (name, "ValidationException"),)?;
    }
    let good = [aws.parameter("A.b-c_9/aws"), aws.unique.replace('/', "")];
    for name in &good {
        same!("name", (name, put(aws, name, "v", Some(ParameterType::String), None).await.as_str(),), (name, "ok"),)?;
    }
    Ok(())
}

/// Guards: a hierarchy has at most 15 levels.
async fn a_name_has_at_most_15_levels(aws: &Aws) -> Outcome {
    for (levels, expected) in [(15, "ok"), (16, "HierarchyLevelLimitExceededException")] {
        let name = format!("/{}{}", aws.unique, "/x".repeat(levels - 1));
        let actual = put(aws, &name, "v", Some(ParameterType::String), None).await;
        same!("levels", (levels, actual.as_str()), (levels, expected))?;
    }
    Ok(())
}

/// Guards: several are deleted at once, and those that are not there are named.
async fn delete_parameters_names_what_is_missing(aws: &Aws) -> Outcome {
    let (a, gone) = (aws.parameter("a"), aws.parameter("gone"));
    aws.put_parameter(&a, "1").await?;
    let answer = aws.ssm.delete_parameters().names(&a).names(&gone).send().await?;
    same!("deleted", answer.deleted_parameters(), std::slice::from_ref(&a),)?;
    same!("missing", answer.invalid_parameters(), [gone])?;
    same!("gone", code(aws.ssm.get_parameter().name(&a).send()).await, "ParameterNotFound",)
}

/// Guards: tags given at creation are listed.
async fn tags_are_put_and_listed(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let tag = aws_sdk_ssm::types::Tag::builder().key("team").value("blue").build()?;
    let put = aws.ssm.put_parameter().name(&name).value("v").r#type(ParameterType::String).tags(tag);
    put.send().await?;
    let kind = aws_sdk_ssm::types::ResourceTypeForTagging::Parameter;
    let answer = aws.ssm.list_tags_for_resource().resource_type(kind).resource_id(&name).send().await?;
    let tags: Vec<_> = answer.tag_list().iter().map(|tag| (tag.key(), tag.value())).collect();
    same!("tags", tags, [("team", "blue")])
}

/// Guards: a value has to match the pattern it comes with.
async fn a_pattern_has_to_match(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let put = |value: &str| {
        let put = aws.ssm.put_parameter().name(&name).value(value).r#type(ParameterType::String);
        put.allowed_pattern("^[0-9]+$").send()
    };
    same!("no match", code(put("x1")).await, "ParameterPatternMismatchException",)?;
    same!("match", code(put("11")).await, "ok")
}
