//! Parameter Store's habits that other servers do not show: empty pages, unchanging lists, times
//! that never repeat.

use aws_sdk_ssm::types::ParameterType;
use emulator::Options;
use futures_util::future::join_all;

use crate::clients::{Outcome, code, start};

/// Guards: with `empty_pages` some pages are empty and carry a token, and following it finds
/// everything once.
#[tokio::test]
async fn empty_pages_lead_on() -> Outcome {
    let (_emulator, aws) = start(Options { empty_pages: true, ..Options::default() }).await;
    for number in 0..25 {
        aws.put_parameter(&format!("/p/{number:02}"), "v").await?;
    }
    let (mut pages, mut names, mut token) = (Vec::new(), Vec::new(), None);
    loop {
        let page = aws.ssm.get_parameters_by_path().path("/p").set_next_token(token).send().await?;
        pages.push(page.parameters().len());
        names.extend(page.parameters().iter().filter_map(|parameter| parameter.name().map(str::to_owned)));
        token = page.next_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(pages, [0, 10, 10, 0, 5]);
    assert_eq!(names, (0..25).map(|number| format!("/p/{number:02}")).collect::<Vec<_>>());
    Ok(())
}

/// Guards: a token belongs to its listing.
#[tokio::test]
async fn a_token_of_another_path_is_refused() -> Outcome {
    let (_emulator, aws) = start(Options::default()).await;
    for number in 0..11 {
        aws.put_parameter(&format!("/p/{number:02}"), "v").await?;
    }
    let page = aws.ssm.get_parameters_by_path().path("/p").send().await?;
    let token = page.next_token().expect("a second page").to_owned();
    let other = aws.ssm.get_parameters_by_path().path("/q").next_token(&token).send();
    assert_eq!(code(other).await, "InvalidNextToken");
    let deeper = aws.ssm.get_parameters_by_path().path("/p").recursive(true).next_token(&token).send();
    assert_eq!(code(deeper).await, "InvalidNextToken");
    Ok(())
}

/// Guards: the two lives of a parameter can be told apart by their times, however fast one follows
/// the other.
#[tokio::test]
async fn no_two_writes_have_the_same_time() -> Outcome {
    let (_emulator, aws) = start(Options::default()).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        aws.put_parameter("/p", "v").await?;
        let got = aws.ssm.get_parameter().name("/p").send().await?;
        times.push(got.parameter().and_then(|parameter| parameter.last_modified_date()).copied().expect("a time"));
        aws.ssm.delete_parameter().name("/p").send().await?;
    }
    assert!(times.is_sorted_by(|earlier, later| earlier < later), "{times:?}");
    Ok(())
}

/// Guards: of many who create the same parameter one wins; of many who overwrite it nobody's
/// version is lost.
#[tokio::test]
async fn concurrent_writes_are_all_counted() -> Outcome {
    let (_emulator, aws) = start(Options::default()).await;
    let create = || code(aws.ssm.put_parameter().name("/p").value("v").r#type(ParameterType::String).send());
    let created = join_all((0..32).map(|_| create())).await;
    assert_eq!(created.iter().filter(|result| *result == "ok").count(), 1);
    let mut versions = Vec::new();
    for version in join_all((0..32).map(|_| aws.put_parameter("/p", "w"))).await {
        versions.push(version?);
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..=33).collect::<Vec<_>>());
    Ok(())
}

/// Guards: `/name` and `name` are one name, as AWS holds them; its ARN finds it.
#[tokio::test]
async fn a_name_has_one_spelling() -> Outcome {
    let (_emulator, aws) = start(Options::default()).await;
    aws.put_parameter("plain", "v").await?;
    let other = aws.ssm.put_parameter().name("/plain").value("w").r#type(ParameterType::String).send();
    assert_eq!(code(other).await, "ParameterAlreadyExists");
    assert_eq!(aws.value("arn:aws:ssm:us-east-1:000000000000:parameter/plain").await?, "v");
    assert_eq!(code(aws.ssm.get_parameter().name("/plain").send()).await, "ParameterNotFound");
    Ok(())
}
