//! Parameter Store: names, values, versions, selectors, labels, pages, errors.

use std::collections::BTreeSet;

use aws_sdk_ssm::types::{ParameterHistory, ParameterStringFilter, ParameterTier, ParameterType};
use aws_smithy_types::date_time::DateTime;

use super::{Aws, cases};
use crate::clients::{Failure, Outcome, code, holds, same};

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
    a_missing_parameter_is_not_found: [],
    selectors_and_arns_select: [Moto: "leaves the selector out of the answer"],
    a_missing_version_is_not_found: [Moto: "answers ParameterNotFound for a label"],
    get_parameters_names_what_is_missing: [],
    get_parameters_takes_at_most_ten: [Ministack: "does not check it"],
    a_path_lists_what_is_under_it: [],
    a_path_pages_by_ten: [Ministack: "takes more than 10 a page"],
    a_bad_token_is_refused: [Moto: "fails with a 500", Ministack: "begins again"],
    describe_filters_by_name_and_path: [Ministack: "OneLevel finds deeper levels"],
    describe_finds_names_versions_and_times: [],
    history_goes_from_old_to_new: [],
    history_pages: [Ministack: "takes more than 50 a page"],
    a_hundred_versions_are_kept: [Ministack: "keeps all"],
    a_label_on_the_oldest_version_stops_writes: [Ministack: "keeps all versions"],
    a_label_moves: [],
    bad_labels_are_named: [Ministack: "takes any label"],
    a_version_has_at_most_ten_labels: [Ministack: "takes any number"],
    a_secret_is_shown_when_asked_for: [Moto: "shows the text with a prefix"],
    a_deleted_parameter_starts_again_at_one: [],
    delete_parameters_names_what_is_missing: [],
    tags_are_put_and_listed: [],
    a_pattern_has_to_match: [Moto: "does not check it", Ministack: "does not check it"],
}

/// Creates or replaces, as the type and tier say; `ok` or the error's code.
async fn put(
    aws: &Aws,
    name: &str,
    value: &str,
    kind: Option<ParameterType>,
    tier: Option<ParameterTier>,
) -> String {
    let put = aws
        .ssm
        .put_parameter()
        .name(name)
        .value(value)
        .overwrite(true);
    code(put.set_type(kind).set_tier(tier).send()).await
}

/// Guards: each write takes the next version.
async fn versions_count_from_one(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for expected in 1..=3 {
        same!(
            "version",
            aws.put_parameter(&name, &format!("v{expected}")).await?,
            expected,
        )?;
    }
    let answer = aws.ssm.get_parameter().name(&name).send().await?;
    let parameter = answer
        .parameter()
        .ok_or_else(|| Failure("no parameter".to_owned()))?;
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
    let put = |value: &str| {
        aws.ssm
            .put_parameter()
            .name(&name)
            .value(value)
            .r#type(ParameterType::String)
            .send()
    };
    same!("first", code(put("1")).await, "ok")?;
    same!("second", code(put("2")).await, "ParameterAlreadyExists")?;
    same!("value", aws.value(&name).await?, "1")
}

/// Guards: "You must specify a parameter type when creating a parameter"; not when updating (API reference).
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
    same!(
        "code",
        put(
            aws,
            &aws.parameter("a"),
            "",
            Some(ParameterType::String),
            None,
        )
        .await,
        "ValidationException",
    )
}

/// Guards: what is around a value goes away without a word.
async fn outer_white_space_of_a_value_is_trimmed(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "  in side \n").await?;
    same!("value", aws.value(&name).await?, "in side")
}

/// Guards: "You can't include values wrapped in double brackets" (API reference).
async fn a_value_holds_no_reference(aws: &Aws) -> Outcome {
    let refused = put(
        aws,
        &aws.parameter("a"),
        "a {{ssm:b}} c",
        Some(ParameterType::String),
        None,
    )
    .await;
    same!("reference", refused, "ValidationException")?;
    same!(
        "braces alone",
        put(
            aws,
            &aws.parameter("b"),
            "{\"a\":{}}",
            Some(ParameterType::String),
            None,
        )
        .await,
        "ok",
    )
}

async fn sizes(aws: &Aws, tier: ParameterTier, most: usize) -> Outcome {
    for (bytes, expected) in [(most, "ok"), (most + 1, "ValidationException")] {
        let name = aws.parameter(&format!("{bytes}"));
        let actual = put(
            aws,
            &name,
            &"x".repeat(bytes),
            Some(ParameterType::String),
            Some(tier.clone()),
        )
        .await;
        same!("size", (bytes, actual.as_str()), (bytes, expected))?;
    }
    Ok(())
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
    for (bytes, expected) in [
        (4_096, ParameterTier::Standard),
        (4_097, ParameterTier::Advanced),
    ] {
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
        same!(
            "tier",
            put(aws, &name, "v", Some(ParameterType::String), Some(tier)).await,
            expected,
        )?;
    }
    Ok(())
}

/// Guards: the documented rules for names.
async fn a_name_is_checked(aws: &Aws) -> Outcome {
    let too_long = format!("/{}", "x".repeat(1_011));
    let bad = [
        "/a b", "/a:1", "a/b", "/ä", "awsTest", "SSM-test", "/ssm/a", &too_long,
    ];
    for name in bad {
        let actual = put(aws, name, "v", Some(ParameterType::String), None).await;
        same!(
            "name",
            (name, actual.as_str()),
            (name, "ValidationException"),
        )?;
    }
    let good = [aws.parameter("A.b-c_9/aws"), aws.unique.replace('/', "")];
    for name in &good {
        same!(
            "name",
            (
                name,
                put(aws, name, "v", Some(ParameterType::String), None)
                    .await
                    .as_str(),
            ),
            (name, "ok"),
        )?;
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

/// Guards: the error for a parameter that is not there, from each call that has it.
async fn a_missing_parameter_is_not_found(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let codes = [
        code(aws.ssm.get_parameter().name(&name).send()).await,
        code(aws.ssm.get_parameter_history().name(&name).send()).await,
        code(aws.ssm.delete_parameter().name(&name).send()).await,
        code(
            aws.ssm
                .label_parameter_version()
                .name(&name)
                .labels("l")
                .send(),
        )
        .await,
    ];
    // Moto remembers a name that it was asked to label, and then cannot list it.
    aws.put_parameter(&name, "v").await?;
    aws.ssm.delete_parameter().name(&name).send().await?;
    same!("codes", codes, ["ParameterNotFound"; 4])
}

/// Guards: `name:version`, `name:label` and ARNs stand for a name.
async fn selectors_and_arns_select(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for value in ["one", "two", "three"] {
        aws.put_parameter(&name, value).await?;
    }
    aws.ssm
        .label_parameter_version()
        .name(&name)
        .parameter_version(2)
        .labels("stable")
        .send()
        .await?;
    let answer = aws.ssm.get_parameter().name(&name).send().await?;
    let arn = answer
        .parameter()
        .and_then(|parameter| parameter.arn())
        .unwrap_or_default()
        .to_owned();
    for (selector, value) in [("", "three"), (":1", "one"), (":stable", "two")] {
        for base in [&name, &arn] {
            same!(
                "selected",
                (
                    base,
                    selector,
                    aws.value(&format!("{base}{selector}")).await?.as_str(),
                ),
                (base, selector, value),
            )?;
        }
    }
    let answer = aws
        .ssm
        .get_parameter()
        .name(format!("{name}:1"))
        .send()
        .await?;
    let parameter = answer
        .parameter()
        .ok_or_else(|| Failure("no parameter".to_owned()))?;
    same!("name", parameter.name(), Some(name.as_str()))?;
    same!("selector", parameter.selector(), Some(":1"))
}

/// Guards: the error for a version or label that is not there.
async fn a_missing_version_is_not_found(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "v").await?;
    for selector in [":9", ":nothing"] {
        let get = aws
            .ssm
            .get_parameter()
            .name(format!("{name}{selector}"))
            .send();
        same!("code", code(get).await, "ParameterVersionNotFound")?;
    }
    Ok(())
}

/// Guards: some of several names may be missing; each is named as it was asked for.
async fn get_parameters_names_what_is_missing(aws: &Aws) -> Outcome {
    let (a, b, gone) = (
        aws.parameter("a"),
        aws.parameter("b"),
        aws.parameter("gone"),
    );
    aws.put_parameter(&a, "1").await?;
    aws.put_parameter(&a, "2").await?;
    aws.put_parameter(&b, "3").await?;
    let old = format!("{a}:1");
    let answer = aws
        .ssm
        .get_parameters()
        .names(&old)
        .names(&b)
        .names(&gone)
        .send()
        .await?;
    let found: BTreeSet<_> = answer
        .parameters()
        .iter()
        .filter_map(|parameter| parameter.value())
        .collect();
    same!("found", found, BTreeSet::from(["1", "3"]))?;
    same!("missing", answer.invalid_parameters(), [gone])
}

/// Guards: 10 names a call.
async fn get_parameters_takes_at_most_ten(aws: &Aws) -> Outcome {
    let get = |count: usize| {
        let names = (0..count).map(|n| aws.parameter(&n.to_string())).collect();
        aws.ssm.get_parameters().set_names(Some(names)).send()
    };
    same!("ten", code(get(10)).await, "ok")?;
    same!("eleven", code(get(11)).await, "ValidationException")
}

async fn by_path(aws: &Aws, path: &str, recursive: bool) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    let mut token = None;
    loop {
        let page = aws
            .ssm
            .get_parameters_by_path()
            .path(path)
            .recursive(recursive)
            .set_next_token(token)
            .send()
            .await?;
        names.extend(
            page.parameters()
                .iter()
                .filter_map(|parameter| parameter.name().map(str::to_owned)),
        );
        token = page
            .next_token()
            .filter(|token| !token.is_empty())
            .map(str::to_owned);
        if token.is_none() {
            names.sort();
            return Ok(names);
        }
    }
}

/// Guards: one level or all; names that only begin alike are not under the path.
async fn a_path_lists_what_is_under_it(aws: &Aws) -> Outcome {
    let names = ["p/a", "p/b/c", "pp/d", "p.e"].map(|name| aws.parameter(name));
    for name in &names {
        aws.put_parameter(name, "v").await?;
    }
    let path = aws.parameter("p");
    same!("one level", by_path(aws, &path, false).await?, &names[..1])?;
    same!("all", by_path(aws, &path, true).await?, &names[..2])?;
    same!(
        "slash at the end",
        by_path(aws, &format!("{path}/"), true).await?,
        &names[..2],
    )?;
    same!(
        "nothing",
        by_path(aws, &aws.parameter("nothing"), true).await?,
        &[] as &[String],
    )
}

/// Guards: at most 10 a page, and nothing lost between pages.
async fn a_path_pages_by_ten(aws: &Aws) -> Outcome {
    for number in 0..23 {
        aws.put_parameter(&aws.parameter(&format!("{number:02}")), "v")
            .await?;
    }
    let path = format!("/{}", aws.unique);
    let first = aws.ssm.get_parameters_by_path().path(&path).send().await?;
    same!("first page", first.parameters().len(), 10)?;
    same!("all", by_path(aws, &path, false).await?.len(), 23)?;
    let too_many = aws
        .ssm
        .get_parameters_by_path()
        .path(&path)
        .max_results(11)
        .send();
    same!("eleven a page", code(too_many).await, "ValidationException")
}

/// Guards: a token that was never given is refused.
async fn a_bad_token_is_refused(aws: &Aws) -> Outcome {
    let call = aws
        .ssm
        .get_parameters_by_path()
        .path("/a")
        .next_token("never-given")
        .send();
    same!("code", code(call).await, "InvalidNextToken")
}

async fn described(aws: &Aws, filter: ParameterStringFilter) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    let mut token = None;
    loop {
        let page = aws
            .ssm
            .describe_parameters()
            .parameter_filters(filter.clone())
            .set_next_token(token)
            .send()
            .await?;
        names.extend(
            page.parameters()
                .iter()
                .filter_map(|parameter| parameter.name().map(str::to_owned)),
        );
        token = page
            .next_token()
            .filter(|token| !token.is_empty())
            .map(str::to_owned);
        if token.is_none() {
            names.sort();
            return Ok(names);
        }
    }
}

/// Guards: `DescribeParameters` filters by name, by its beginning, and by path.
async fn describe_filters_by_name_and_path(aws: &Aws) -> Outcome {
    let names = ["p/a", "p/b/c", "pp/d"].map(|name| aws.parameter(name));
    for name in &names {
        aws.put_parameter(name, "v").await?;
    }
    let path = aws.parameter("p");
    let cases = [
        ("Name", "Equals", names[0].as_str(), &names[..1]),
        ("Name", "BeginsWith", path.as_str(), &names[..]),
        ("Path", "OneLevel", path.as_str(), &names[..1]),
        ("Path", "Recursive", path.as_str(), &names[..2]),
    ];
    for (key, option, value, expected) in cases {
        let filter = ParameterStringFilter::builder()
            .key(key)
            .option(option)
            .values(value)
            .build()?;
        same!(option, described(aws, filter).await?, expected)?;
    }
    Ok(())
}

/// Guards: what a comparison without values needs: name, version, time, type, tier, description.
async fn describe_finds_names_versions_and_times(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "v").await?;
    aws.ssm
        .put_parameter()
        .name(&name)
        .value("w")
        .overwrite(true)
        .description("why")
        .send()
        .await?;
    let filter = ParameterStringFilter::builder()
        .key("Name")
        .values(&name)
        .build()?;
    let answer = aws
        .ssm
        .describe_parameters()
        .parameter_filters(filter)
        .send()
        .await?;
    let described = answer
        .parameters()
        .first()
        .ok_or_else(|| Failure("nothing described".to_owned()))?;
    same!("version", described.version(), 2)?;
    same!("type", described.r#type(), Some(&ParameterType::String))?;
    same!("tier", described.tier(), Some(&ParameterTier::Standard))?;
    same!("description", described.description(), Some("why"))?;
    holds("time", described.last_modified_date().is_some())
}

async fn history(aws: &Aws, name: &str) -> Result<Vec<i64>, Failure> {
    let mut versions = Vec::new();
    let mut token = None;
    loop {
        let page = aws
            .ssm
            .get_parameter_history()
            .name(name)
            .set_next_token(token)
            .send()
            .await?;
        holds("at most 50 a page", page.parameters().len() <= 50)?;
        versions.extend(page.parameters().iter().map(ParameterHistory::version));
        token = page
            .next_token()
            .filter(|token| !token.is_empty())
            .map(str::to_owned);
        if token.is_none() {
            return Ok(versions);
        }
    }
}

/// Guards: history has each version's own value, description, labels and time, oldest first.
async fn history_goes_from_old_to_new(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for (value, description) in [("1", "first"), ("2", "second")] {
        let put = aws
            .ssm
            .put_parameter()
            .name(&name)
            .value(value)
            .description(description)
            .overwrite(true);
        put.r#type(ParameterType::String).send().await?;
    }
    aws.ssm
        .label_parameter_version()
        .name(&name)
        .parameter_version(1)
        .labels("old")
        .send()
        .await?;
    let answer = aws.ssm.get_parameter_history().name(&name).send().await?;
    let entries: Vec<_> = answer
        .parameters()
        .iter()
        .map(|entry| {
            (
                entry.version(),
                entry.value(),
                entry.description(),
                entry.labels().len(),
            )
        })
        .collect();
    same!(
        "entries",
        entries,
        [
            (1, Some("1"), Some("first"), 1),
            (2, Some("2"), Some("second"), 0),
        ],
    )
}

/// Guards: history pages without losing a version.
async fn history_pages(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for version in 1..=60 {
        aws.put_parameter(&name, &version.to_string()).await?;
    }
    same!(
        "versions",
        history(aws, &name).await?,
        (1..=60).collect::<Vec<_>>(),
    )?;
    let too_many = aws
        .ssm
        .get_parameter_history()
        .name(&name)
        .max_results(51)
        .send();
    same!("51 a page", code(too_many).await, "ValidationException")
}

/// Guards: 100 versions are kept, the oldest goes.
async fn a_hundred_versions_are_kept(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for version in 1..=101 {
        same!(
            "version",
            aws.put_parameter(&name, &version.to_string()).await?,
            version,
        )?;
    }
    same!(
        "versions",
        history(aws, &name).await?,
        (2..=101).collect::<Vec<_>>(),
    )?;
    let oldest = aws.ssm.get_parameter().name(format!("{name}:1")).send();
    same!("the first", code(oldest).await, "ParameterVersionNotFound")
}

/// Guards: a label on the oldest of 100 versions makes the next write fail, and moving it lets it through.
async fn a_label_on_the_oldest_version_stops_writes(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    for version in 1..=100 {
        aws.put_parameter(&name, &version.to_string()).await?;
    }
    aws.ssm
        .label_parameter_version()
        .name(&name)
        .parameter_version(1)
        .labels("keep")
        .send()
        .await?;
    let next = put(aws, &name, "101", None, None).await;
    same!("with the label", next, "ParameterMaxVersionLimitExceeded")?;
    aws.ssm
        .label_parameter_version()
        .name(&name)
        .parameter_version(50)
        .labels("keep")
        .send()
        .await?;
    same!("moved", put(aws, &name, "101", None, None).await, "ok")
}

/// Guards: a label is on one version at a time, without a version on the newest.
async fn a_label_moves(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "one").await?;
    aws.put_parameter(&name, "two").await?;
    let label = |version: Option<i64>| {
        aws.ssm
            .label_parameter_version()
            .name(&name)
            .set_parameter_version(version)
            .labels("live")
            .send()
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
    let answer = label
        .labels("good")
        .labels("1st")
        .labels("aws-x")
        .labels("a b")
        .send()
        .await?;
    let invalid: BTreeSet<_> = answer.invalid_labels().iter().map(String::as_str).collect();
    same!("invalid", invalid, BTreeSet::from(["1st", "a b", "aws-x"]))?;
    same!("good", aws.value(&format!("{name}:good")).await?, "one")
}

/// Guards: 10 labels a version.
async fn a_version_has_at_most_ten_labels(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "one").await?;
    let labels = (0..10).map(|n| format!("l{n}")).collect();
    aws.ssm
        .label_parameter_version()
        .name(&name)
        .set_labels(Some(labels))
        .send()
        .await?;
    let one_more = aws
        .ssm
        .label_parameter_version()
        .name(&name)
        .labels("l10")
        .send();
    same!(
        "one more",
        code(one_more).await,
        "ParameterVersionLabelLimitExceeded",
    )
}

/// Guards: without `WithDecryption` nothing of a secret's text is shown, by no call.
async fn a_secret_is_shown_when_asked_for(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let secret = "correct horse";
    same!(
        "put",
        put(aws, &name, secret, Some(ParameterType::SecureString), None).await,
        "ok",
    )?;
    let hidden = aws.value(&name).await?;
    holds("hidden", !hidden.contains(secret) && !hidden.is_empty())?;
    let shown = aws
        .ssm
        .get_parameter()
        .name(&name)
        .with_decryption(true)
        .send()
        .await?;
    same!(
        "shown",
        shown.parameter().and_then(|parameter| parameter.value()),
        Some(secret),
    )?;
    let path = format!("/{}", aws.unique);
    let listed = aws.ssm.get_parameters_by_path().path(&path).send().await?;
    let listed = listed
        .parameters()
        .first()
        .and_then(|parameter| parameter.value())
        .unwrap_or_default()
        .to_owned();
    holds("hidden in a list", !listed.contains(secret))?;
    let history = aws.ssm.get_parameter_history().name(&name).send().await?;
    let history = history
        .parameters()
        .first()
        .and_then(|entry| entry.value())
        .unwrap_or_default()
        .to_owned();
    holds("hidden in the history", !history.contains(secret))
}

/// Guards: a parameter that is deleted and created again has another life: version 1, no old versions, a later time.
async fn a_deleted_parameter_starts_again_at_one(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "one").await?;
    aws.put_parameter(&name, "two").await?;
    let time = async || -> Result<Option<DateTime>, Failure> {
        let answer = aws.ssm.get_parameter().name(&name).send().await?;
        Ok(answer
            .parameter()
            .and_then(|parameter| parameter.last_modified_date())
            .copied())
    };
    let before = time().await?;
    aws.ssm.delete_parameter().name(&name).send().await?;
    same!("version", aws.put_parameter(&name, "new").await?, 1)?;
    same!("history", history(aws, &name).await?, [1])?;
    holds(
        "the time is later",
        before.is_some() && time().await? > before,
    )
}

/// Guards: several are deleted at once, and those that are not there are named.
async fn delete_parameters_names_what_is_missing(aws: &Aws) -> Outcome {
    let (a, gone) = (aws.parameter("a"), aws.parameter("gone"));
    aws.put_parameter(&a, "1").await?;
    let answer = aws
        .ssm
        .delete_parameters()
        .names(&a)
        .names(&gone)
        .send()
        .await?;
    same!(
        "deleted",
        answer.deleted_parameters(),
        std::slice::from_ref(&a),
    )?;
    same!("missing", answer.invalid_parameters(), [gone])?;
    same!(
        "gone",
        code(aws.ssm.get_parameter().name(&a).send()).await,
        "ParameterNotFound",
    )
}

/// Guards: tags given at creation are listed.
async fn tags_are_put_and_listed(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let tag = aws_sdk_ssm::types::Tag::builder()
        .key("team")
        .value("blue")
        .build()?;
    let put = aws
        .ssm
        .put_parameter()
        .name(&name)
        .value("v")
        .r#type(ParameterType::String)
        .tags(tag);
    put.send().await?;
    let kind = aws_sdk_ssm::types::ResourceTypeForTagging::Parameter;
    let answer = aws
        .ssm
        .list_tags_for_resource()
        .resource_type(kind)
        .resource_id(&name)
        .send()
        .await?;
    let tags: Vec<_> = answer
        .tag_list()
        .iter()
        .map(|tag| (tag.key(), tag.value()))
        .collect();
    same!("tags", tags, [("team", "blue")])
}

/// Guards: a value has to match the pattern it comes with.
async fn a_pattern_has_to_match(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let put = |value: &str| {
        let put = aws
            .ssm
            .put_parameter()
            .name(&name)
            .value(value)
            .r#type(ParameterType::String);
        put.allowed_pattern("^[0-9]+$").send()
    };
    same!(
        "no match",
        code(put("x1")).await,
        "ParameterPatternMismatchException",
    )?;
    same!("match", code(put("11")).await, "ok")
}
