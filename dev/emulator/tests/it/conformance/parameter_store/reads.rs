//! What the calls that read find: by name, selector, path and filter.

use std::collections::BTreeSet;

use aws_sdk_ssm::types::{ParameterStringFilter, ParameterTier, ParameterType};

use super::put;
use crate::clients::{Failure, Outcome, code, holds, same};
use crate::conformance::{Aws, cases};

cases! {
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
    a_secret_is_shown_when_asked_for: [Moto: "shows the text with a prefix"],
}

async fn by_path(aws: &Aws, path: &str, recursive: bool) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    let mut token = None;
    loop {
        let page =
            aws.ssm.get_parameters_by_path().path(path).recursive(recursive).set_next_token(token).send().await?;
        names.extend(page.parameters().iter().filter_map(|parameter| parameter.name().map(str::to_owned)));
        token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
        if token.is_none() {
            names.sort();
            return Ok(names);
        }
    }
}

async fn described(aws: &Aws, filter: ParameterStringFilter) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    let mut token = None;
    loop {
        let page = aws.ssm.describe_parameters().parameter_filters(filter.clone()).set_next_token(token).send().await?;
        names.extend(page.parameters().iter().filter_map(|parameter| parameter.name().map(str::to_owned)));
        token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
        if token.is_none() {
            names.sort();
            return Ok(names);
        }
    }
}

/// Guards: the error for a parameter that is not there, from each call that has it.
async fn a_missing_parameter_is_not_found(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let codes = [
        code(aws.ssm.get_parameter().name(&name).send()).await,
        code(aws.ssm.get_parameter_history().name(&name).send()).await,
        code(aws.ssm.delete_parameter().name(&name).send()).await,
        code(aws.ssm.label_parameter_version().name(&name).labels("l").send()).await,
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
    aws.ssm.label_parameter_version().name(&name).parameter_version(2).labels("stable").send().await?;
    let answer = aws.ssm.get_parameter().name(&name).send().await?;
    let arn = answer.parameter().and_then(|parameter| parameter.arn()).unwrap_or_default().to_owned();
    for (selector, value) in [("", "three"), (":1", "one"), (":stable", "two")] {
        for base in [&name, &arn] {
            same!(
                "selected",
                (base, selector, aws.value(&format!("{base}{selector}")).await?.as_str(),),
                (base, selector, value),
            )?;
        }
    }
    let answer = aws.ssm.get_parameter().name(format!("{name}:1")).send().await?;
    let parameter = answer.parameter().ok_or_else(|| Failure("no parameter".to_owned()))?;
    same!("name", parameter.name(), Some(name.as_str()))?;
    same!("selector", parameter.selector(), Some(":1"))
}

/// Guards: the error for a version or label that is not there.
async fn a_missing_version_is_not_found(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "v").await?;
    for selector in [":9", ":nothing"] {
        let get = aws.ssm.get_parameter().name(format!("{name}{selector}")).send();
        same!("code", code(get).await, "ParameterVersionNotFound")?;
    }
    Ok(())
}

/// Guards: some of several names may be missing; each is named as it was asked for.
async fn get_parameters_names_what_is_missing(aws: &Aws) -> Outcome {
    let (a, b, gone) = (aws.parameter("a"), aws.parameter("b"), aws.parameter("gone"));
    aws.put_parameter(&a, "1").await?;
    aws.put_parameter(&a, "2").await?;
    aws.put_parameter(&b, "3").await?;
    let old = format!("{a}:1");
    let answer = aws.ssm.get_parameters().names(&old).names(&b).names(&gone).send().await?;
    let found: BTreeSet<_> = answer.parameters().iter().filter_map(|parameter| parameter.value()).collect();
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

/// Guards: one level or all; names that only begin alike are not under the path.
async fn a_path_lists_what_is_under_it(aws: &Aws) -> Outcome {
    let names = ["p/a", "p/b/c", "pp/d", "p.e"].map(|name| aws.parameter(name));
    for name in &names {
        aws.put_parameter(name, "v").await?;
    }
    let path = aws.parameter("p");
    same!("one level", by_path(aws, &path, false).await?, &names[..1])?;
    same!("all", by_path(aws, &path, true).await?, &names[..2])?;
    same!("slash at the end", by_path(aws, &format!("{path}/"), true).await?, &names[..2],)?;
    same!("nothing", by_path(aws, &aws.parameter("nothing"), true).await?, &[] as &[String],)
}

/// Guards: at most 10 a page, and nothing lost between pages.
async fn a_path_pages_by_ten(aws: &Aws) -> Outcome {
    for number in 0..23 {
        aws.put_parameter(&aws.parameter(&format!("{number:02}")), "v").await?;
    }
    let path = format!("/{}", aws.unique);
    let first = aws.ssm.get_parameters_by_path().path(&path).send().await?;
    same!("first page", first.parameters().len(), 10)?;
    same!("all", by_path(aws, &path, false).await?.len(), 23)?;
    let too_many = aws.ssm.get_parameters_by_path().path(&path).max_results(11).send();
    same!("eleven a page", code(too_many).await, "ValidationException")
}

/// Guards: a token that was never given is refused.
async fn a_bad_token_is_refused(aws: &Aws) -> Outcome {
    let call = aws.ssm.get_parameters_by_path().path("/a").next_token("never-given").send();
    same!("code", code(call).await, "InvalidNextToken")
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
        let filter = ParameterStringFilter::builder().key(key).option(option).values(value).build()?;
        same!(option, described(aws, filter).await?, expected)?;
    }
    Ok(())
}

/// Guards: what a comparison without values needs: name, version, time, type, tier, description.
async fn describe_finds_names_versions_and_times(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    aws.put_parameter(&name, "v").await?;
    aws.ssm.put_parameter().name(&name).value("w").overwrite(true).description("why").send().await?;
    let filter = ParameterStringFilter::builder().key("Name").values(&name).build()?;
    let answer = aws.ssm.describe_parameters().parameter_filters(filter).send().await?;
    let described = answer.parameters().first().ok_or_else(|| Failure("nothing described".to_owned()))?;
    same!("version", described.version(), 2)?;
    same!("type", described.r#type(), Some(&ParameterType::String))?;
    same!("tier", described.tier(), Some(&ParameterTier::Standard))?;
    same!("description", described.description(), Some("why"))?;
    holds("time", described.last_modified_date().is_some())
}

/// Guards: without `WithDecryption` nothing of a secret's text is shown, by no call.
async fn a_secret_is_shown_when_asked_for(aws: &Aws) -> Outcome {
    let name = aws.parameter("a");
    let secret = "correct horse";
    same!("put", put(aws, &name, secret, Some(ParameterType::SecureString), None).await, "ok",)?;
    let hidden = aws.value(&name).await?;
    holds("hidden", !hidden.contains(secret) && !hidden.is_empty())?;
    let shown = aws.ssm.get_parameter().name(&name).with_decryption(true).send().await?;
    same!("shown", shown.parameter().and_then(|parameter| parameter.value()), Some(secret),)?;
    let path = format!("/{}", aws.unique);
    let listed = aws.ssm.get_parameters_by_path().path(&path).send().await?;
    let listed = listed.parameters().first().and_then(|parameter| parameter.value()).unwrap_or_default().to_owned();
    holds("hidden in a list", !listed.contains(secret))?;
    let history = aws.ssm.get_parameter_history().name(&name).send().await?;
    let history = history.parameters().first().and_then(|entry| entry.value()).unwrap_or_default().to_owned();
    holds("hidden in the history", !history.contains(secret))
}
