//! The template and the code, read together: what one of them says of a function, the other does.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use aws_credential_types::Credentials;
use config_stream::settings::{StreamSettings, UnusableSettings};
use local::{
    issuer::{CLIENT_ID, Issuer},
    template::{Deployment, Stack, StackError, TEMPLATE},
};
use serde_json::{Value, json};
use tenantry::{
    aws::OwnCredentials,
    function::Context,
    settings::{InvalidSettings, Settings, SharedSettings},
    telemetry::Telemetry,
};

type Error = Box<dyn std::error::Error + Send + Sync>;
type TestResult = Result<(), Error>;

/// How long API Gateway waits for a function.
const API_GATEWAY_TIMEOUT: Duration = Duration::from_secs(30);
/// What the Lambda service puts into every function's environment.
const FROM_LAMBDA: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_XRAY_DAEMON_ADDRESS",
];

/// The template with every optional setting given.
fn stack() -> Result<Stack, StackError> {
    stack_with(&[])
}

/// The template with every optional setting given, and these beside or instead.
fn stack_with(more: &[(&str, &str)]) -> Result<Stack, StackError> {
    let given = [
        ("TokenIssuer", "http://issuer"),
        ("TokenAudience", "a"),
        ("TagRoutes", "{}"),
        ("ParameterKmsKeyArn", "arn:aws:kms:x"),
        ("JwksUrl", "http://issuer/keys"),
        ("AwsEndpointUrl", "http://aws"),
        ("AwsCaBundle", "/roots.pem"),
        ("StreamImage", "local"),
        ("StreamSnapshotKeyArn", "arn:aws:secretsmanager:x"),
    ];
    let deployment = Deployment {
        region: "eu-central-1".into(),
        account: "123456789012".into(),
        stack: "tenantry".into(),
        parameters: given.iter().chain(more).map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    Stack::read(TEMPLATE, &deployment)
}

fn source(file: &str) -> std::io::Result<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file))
}

/// Promise: with a key of one's own for the table, each role that may call `DynamoDB` may use that
/// key as its documentation asks: those that read to decrypt, those that write to encrypt, too.
#[test]
fn roles_that_reach_the_table_may_use_its_key() -> TestResult {
    let key = "arn:aws:kms:eu-central-1:123456789012:key/1";
    for tenant_credentials in ["true", "false"] {
        let stack = stack_with(&[("TableKmsKeyArn", key), ("TenantCredentials", tenant_credentials)])?;
        let mut seen = 0;
        for role in &stack.roles {
            let allowed: Vec<_> = role.allowed().collect();
            let may = |actions: &[&str]| allowed.iter().any(|(action, _)| actions.contains(&action.as_str()));
            // A function's own role may get the one item that opens the connection: a refusal does.
            if !may(&["dynamodb:Query", "dynamodb:PutItem"]) {
                continue;
            }
            let mut expected = BTreeSet::from(["kms:Decrypt", "kms:DescribeKey"]);
            if may(&["dynamodb:PutItem", "dynamodb:UpdateItem"]) {
                expected.extend(["kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]);
            }
            let of_the_key = allowed.iter().filter(|(_, resource)| resource == key);
            let given: BTreeSet<_> = of_the_key.map(|(action, _)| action.as_str()).collect();
            assert_eq!(given, expected, "{} with TenantCredentials={tenant_credentials}", role.name);
            seen += 1;
        }
        assert!(seen >= 4, "{seen}");
    }
    Ok(())
}

/// Promise: the functions are given each setting that they read, all the same ones but for that of
/// config-refresh alone, and none that nobody reads.
#[test]
fn settings_are_given_and_read() -> TestResult {
    let read = RefCell::new(BTreeSet::new());
    let loaded = Settings::load(&|name| {
        read.borrow_mut().insert(name.to_owned());
        let is_typed = [
            "AWS_CA_BUNDLE",
            "AWS_XRAY_DAEMON_ADDRESS",
            "CACHE_MAX_BYTES",
            "PARAMETER_ROOT",
            "TAG_ROUTES",
            "TENANT_BURST_LIMIT",
            "TENANT_RATE_LIMIT",
        ]
        .contains(&name);
        let value = match name {
            "JWKS_URL" | "TOKEN_ISSUER" => "https://x",
            "SYSTEM_ROLE_ARN" | "TENANT_ROLE_ARN" => "arn:aws:iam::123456789012:role/r",
            _ => "x",
        };
        (!is_typed).then(|| value.to_owned())
    });
    loaded?;
    let mut read = read.into_inner();
    for name in FROM_LAMBDA {
        assert!(read.remove(name), "{name} is not read");
    }
    // Read when logging begins, before anything can go wrong.
    read.insert("RUST_LOG".to_owned());
    for (name, function) in stack()?.functions {
        let mut given: BTreeSet<_> = function.environment.into_keys().collect();
        if name != "config-refresh" {
            given.insert("SYSTEM_ROLE_ARN".to_owned());
        }
        assert_eq!(given, read, "{name}: given on the left, read on the right");
    }
    Ok(())
}

/// What the streaming service reads beside the functions' settings, as far as the template sets it.
const OF_THE_STREAM: [&str; 5] =
    ["CHANGE_QUEUE_URL", "GRPC_ADDRESS", "METRICS_ADDRESS", "SNAPSHOT_FILE", "SNAPSHOT_KEY"];
/// What config-read is not told, because Lambda does or it has no use for it.
const NOT_OF_CONFIG_READ: [&str; 2] = ["AWS_REGION", "SYSTEM_ROLE_ARN"];
/// What means something in a function only: where AWS is elsewhere, its roots are, too.
const OF_FUNCTIONS_ALONE: [&str; 2] = ["AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"];
/// What only those need who write.
const OF_WRITERS_ALONE: [&str; 2] = ["EVENT_BUS_NAME", "PARAMETER_KMS_KEY_ID"];

/// Promise: the streaming service is told what config-read is told, so that both answer alike, and
/// beside that only what it knows.
#[test]
fn settings_of_the_streaming_service_are_known() -> TestResult {
    let stack = stack()?;
    let stream = stack.stream.as_ref().ok_or("no streaming service")?;
    let read = &stack.function("config-read")?.environment;
    let given: BTreeSet<_> = stream.environment.keys().chain(stream.secrets.keys()).map(String::as_str).collect();
    let left_out = [OF_FUNCTIONS_ALONE, OF_WRITERS_ALONE].concat();
    let known = read.keys().map(String::as_str).filter(|name| !left_out.contains(name));
    let known: BTreeSet<_> = known.chain(OF_THE_STREAM).chain(NOT_OF_CONFIG_READ).collect();
    assert_eq!(given, known, "given on the left, known on the right");
    // Memory and rights are its own.
    for (name, value) in
        read.iter().filter(|(name, _)| !["TENANT_ROLE_ARN", "CACHE_MAX_BYTES"].contains(&name.as_str()))
    {
        let same = stream.environment.get(name).is_none_or(|other| other == value);
        assert!(same, "{name} is {value} for config-read");
    }
    let credentials = OwnCredentials::Fixed(Credentials::from_keys("x", "x", None));
    let source = |name: &str| match name {
        // The values above are short, and none that are taken.
        "TAG_ROUTES" => None,
        "TOKEN_ISSUER" | "JWKS_URL" => Some("https://x".to_owned()),
        name => stream.environment.get(name).cloned(),
    };
    SharedSettings::load(&source, credentials.clone())?;
    let asked = RefCell::new(BTreeSet::new());
    let source = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        None
    };
    // One after the other is missing, and given.
    let mut missing: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let source = |name: &str| missing.get(name).cloned().or_else(|| source(name));
        let Err(UnusableSettings::Shared(InvalidSettings::Missing(name))) =
            StreamSettings::load(&source, credentials.clone())
        else {
            break;
        };
        missing.insert(
            name.to_owned(),
            if name.ends_with("ROLE_ARN") { "arn:aws:iam::123456789012:role/r" } else { "https://x" }.to_owned(),
        );
    }
    let unread = given.iter().filter(|name| !asked.borrow().contains(**name) && **name != "RUST_LOG");
    assert_eq!(unread.collect::<Vec<_>>(), Vec::<&&str>::new(), "nobody reads these");
    for name in OF_WRITERS_ALONE {
        assert!(!asked.borrow().contains(name), "the streaming service asks for {name}, and does not write");
    }
    Ok(())
}

/// Promise: the streaming service does for a tenant what config-read does, by the same statements,
/// but for the history of parameters.
#[test]
fn the_streaming_service_reads_as_config_read_does() -> TestResult {
    let stack = stack()?;
    let role =
        |name: &str| stack.roles.iter().find(|role| role.name == format!("tenantry-{name}")).ok_or("no such role");
    let (read, stream) = (role("ConfigReadTenantRole")?, role("ConfigStreamTenantRole")?);
    assert_eq!(serde_json::to_string(&read.policies)?, serde_json::to_string(&stream.policies)?);
    let trust = read.trust.to_string().replace("ConfigReadRole", "ConfigStreamTaskRole");
    assert_eq!(trust, stream.trust.to_string());
    Ok(())
}

/// Promise: `cargo lambda watch` and `sam local` are given the settings of the local suite, and
/// none that nobody reads.
#[test]
fn settings_for_other_local_runs() -> TestResult {
    let functions: BTreeMap<String, String> = source("dev/local/functions.env")?
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let settings = Settings::load(&|name| functions.get(name).cloned())?;
    assert_eq!(settings.shared.tokens.issuer, Issuer::url_at(8080));
    assert_eq!(settings.shared.tokens.audience, [CLIENT_ID]);

    let given = stack()?.function("config-read")?.environment.clone();
    let containers: Value = serde_json::from_str(&source("dev/local/sam-local.json")?)?;
    let system_role = &containers["ConfigRefresh"]["SYSTEM_ROLE_ARN"];
    assert!(functions.get("SYSTEM_ROLE_ARN").is_some_and(|other| system_role == other));
    let containers = containers["Parameters"].as_object().ok_or("no Parameters")?;
    for (name, value) in containers {
        assert!(given.contains_key(name), "sam local hands on what the template declares only: {name}");
        let reached = ["JWKS_URL", "AWS_ENDPOINT_URL"].contains(&name.as_str());
        assert!(reached || functions.get(name).is_some_and(|other| value == other), "{name}");
    }
    for name in ["TABLE_NAME", "EVENT_BUS_NAME"] {
        assert_eq!(functions.get(name), given.get(name), "{name}");
        assert!(containers.contains_key(name), "{name}");
    }
    Ok(())
}

/// The answer of a function to a request without a token.
async fn status(function: &str, method: &str, path: &str) -> Result<i64, Error> {
    let environment = [
        ("TABLE_NAME", "t"),
        ("EVENT_BUS_NAME", "b"),
        ("TOKEN_ISSUER", "https://issuer"),
        ("TOKEN_AUDIENCE", "a"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "a"),
        ("TENANT_ROLE_ARN", "none"),
    ];
    let environment = BTreeMap::from(environment);
    let mut settings = Settings::load(&|name| environment.get(name).map(|value| (*value).to_owned()))?;
    settings.telemetry = Telemetry::silent();
    let mut event: Value = serde_json::from_str(&source("events/get-health.json")?)?;
    event["rawPath"] = json!(path);
    event["requestContext"]["http"]["path"] = json!(path);
    event["requestContext"]["http"]["method"] = json!(method);
    event["routeKey"] = json!(format!("{method} {path}"));
    let event = serde_json::from_value(event)?;
    let answer = match function {
        "config-read" => config_read::handle(&config_read::App::start(&settings)?, event, &Context::default()).await,
        "config-write" => config_write::handle(&config_write::App::start(&settings)?, event, &Context::default()).await,
        other => return Err(format!("{other} answers no requests").into()),
    };
    Ok(answer.status_code)
}

/// Promise: each route has a handler that asks for a token, and no function answers what is not
/// routed to it.
#[tokio::test]
async fn routes_have_handlers_and_handlers_routes() -> TestResult {
    let routes = stack()?.api.routes;
    let paths: BTreeSet<_> = routes.iter().map(|route| route.path.as_str()).collect();
    for function in ["config-read", "config-write"] {
        for (method, path) in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
            .into_iter()
            .flat_map(|method| paths.iter().map(move |path| (method, *path)))
        {
            let route = routes.iter().find(|route| (route.method.as_str(), route.path.as_str()) == (method, path));
            let expected = match route.filter(|route| route.function == function) {
                None => 404,
                Some(route) if route.authorizer.is_none() => 200,
                Some(_) => 401,
            };
            let asked = path.replace("{key+}", "tenant_config_limits");
            assert_eq!(status(function, method, &asked).await?, expected, "{function}: {method} {asked}");
        }
    }
    Ok(())
}

/// Promise: what a function knows as its routes is what the template routes to it.
#[test]
fn functions_know_their_routes() -> TestResult {
    let routes = stack()?.api.routes;
    for (function, known) in [("config-read", &config_read::ROUTES[..]), ("config-write", &config_write::ROUTES[..])] {
        let expected: BTreeSet<_> = routes
            .iter()
            .filter(|route| route.function == function)
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        // What answers GET answers HEAD.
        let heads = known.iter().filter_map(|key| key.strip_prefix("GET ")).map(|path| format!("HEAD {path}"));
        let known: BTreeSet<_> = known.iter().map(|&key| key.to_owned()).chain(heads).collect();
        assert_eq!(expected, known, "{function}: the template on the left");
    }
    Ok(())
}

/// Promise: whoever builds the image has each member of the workspace, without which cargo builds
/// none; what is not named stays at home. The image has what the template makes of it: user, ports,
/// the folder of the snapshot.
#[test]
fn the_image_is_built_of_the_workspace_and_fits_the_template() -> TestResult {
    let (manifest, ignored) = (source("Cargo.toml")?, source(".dockerignore")?);
    let (_, members) = manifest.split_once("members = [").ok_or("no members")?;
    let members = members.split(']').next().unwrap_or_default().split('"').skip(1).step_by(2);
    let members: BTreeSet<_> = members.filter_map(|member| member.split('/').next()).collect();
    let sent: BTreeSet<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert_eq!(sent, members.into_iter().chain([".cargo", "Cargo.lock", "Cargo.toml"]).collect());
    assert!(ignored.lines().any(|line| line == "*"), "all else is left out");

    let image = source("stream/Dockerfile")?;
    let (_, runs) = image.rsplit_once("\nFROM ").ok_or("one stage only")?;
    for (in_image, in_template) in [
        ("USER 65532:65532", "User: \"65532:65532\""),
        ("EXPOSE 50051 9090", "ContainerPort: 50051, Protocol"),
        ("EXPOSE 50051 9090", "ContainerPort: 9090, Protocol"),
        ("VOLUME [\"/snapshot\"]", "ContainerPath: /snapshot,"),
        ("--chown=65532:65532 /snapshot /snapshot", "Value: /snapshot/config-stream"),
    ] {
        assert!(runs.contains(in_image) && TEMPLATE.contains(in_template), "{in_image} | {in_template}");
    }
    Ok(())
}

/// Promise: who deploys is told to install the very tools that the gate has tried, and to build the
/// image for the processors of the tasks.
#[test]
fn the_gates_tools_deploy() -> TestResult {
    let (page, gate) = (source("docs/operations/deploy.md")?, source(".ci/run")?);
    for tool in ["aws-sam-cli==", "cfn-lint=="] {
        let version = |text: &str| -> Result<String, Error> {
            let (_, rest) = text.split_once(tool).ok_or_else(|| format!("{tool} is pinned nowhere"))?;
            Ok(rest.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default().to_owned())
        };
        assert_eq!(version(&page)?, version(&gate)?, "{tool}: the document's, the gate's");
    }
    let (_, architecture) = TEMPLATE.split_once("\n  Architecture:\n").ok_or("no Architecture")?;
    let (_, architecture) = architecture.split_once("Default: ").ok_or("no default")?;
    let platform = format!("--platform linux/{} ", architecture.lines().next().unwrap_or_default());
    for (file, text) in [("docs/operations/deploy.md", page), ("stream/Dockerfile", source("stream/Dockerfile")?)] {
        let mut builds = text.match_indices("docker build ").map(|(at, _)| &text[at + "docker build ".len()..]);
        assert!(builds.clone().count() > 0 && builds.all(|rest| rest.starts_with(&platform)), "{file}: {platform}");
    }
    Ok(())
}

/// A duration that is a constant in the code.
fn constant(file: &str, name: &str) -> Result<Duration, Error> {
    let code = source(file)?;
    let (_, rest) = code
        .split_once(&format!("const {name}: Duration = Duration::from_"))
        .ok_or_else(|| format!("{file} has no duration {name}"))?;
    let (number, unit) = match rest.split(')').next().and_then(|call| call.split_once('(')) {
        Some(("secs", number)) => (number, 1),
        Some(("mins", number)) => (number, 60),
        _ => return Err(format!("{name} of {file} is in neither seconds nor minutes").into()),
    };
    Ok(Duration::from_secs(unit * number.parse::<u64>()?))
}

/// Promise: what keeps failing sounds the alarm. It is put off each time, and sweeps do not see it
/// until it is due again; each period of the alarm has a sweep that does.
#[test]
fn the_alarm_sees_work_that_is_put_off() -> TestResult {
    let (_, alarm) = TEMPLATE.split_once("MetricName: OutboxAge").ok_or("no alarm")?;
    let (_, period) = alarm.split_once("Period: ").ok_or("no period")?;
    let period = Duration::from_secs(period.split('\n').next().unwrap_or_default().parse()?);
    let sweeps = stack()?.schedules.first().ok_or("no schedule")?.every;
    assert!(period >= constant("shared/src/refresh.rs", "BACKOFF")? + 2 * sweeps, "{period:?}");
    Ok(())
}

/// Promise: a function gives up by itself, and says so, before Lambda ends it; and before API
/// Gateway stops waiting.
#[test]
fn timeouts_fit_the_budgets() -> TestResult {
    let stack = stack()?;
    let timeout = |function: &str| stack.function(function).map(|function| function.timeout);
    let call = constant("shared/src/aws/clients.rs", "CALL_TIMEOUT")?;

    let answer = constant("shared/src/function.rs", "ANSWER_BUDGET")?;
    assert!(answer > constant("shared/src/write/mod.rs", "REQUEST_BUDGET")?);
    assert!(answer > constant("shared/src/read/mod.rs", "READ_BUDGET")?);
    for function in ["config-read", "config-write"] {
        assert!(timeout(function)? > answer, "{function}");
        assert!(timeout(function)? < API_GATEWAY_TIMEOUT, "{function}");
    }
    // The last piece of work begins at the end of the run's budget, fails, and is put off.
    let refresh = |name| constant("shared/src/refresh.rs", name);
    let item = constant("shared/src/outbox/mod.rs", "ITEM_BUDGET")?;
    let longest = refresh("RUN_BUDGET")? + item + call;
    assert!(timeout("config-refresh")? > longest);
    // Work that began at the end of its time is over when there is still time left to compare.
    assert!(refresh("RUN_BUDGET")? > refresh("WORK_BUDGET")? + item);
    // Who removes a value is done, or gone, before anybody else may put one.
    let removal = constant("shared/src/outbox/replicate.rs", "REMOVAL")?;
    for longest in [refresh("WORK_BUDGET")?, item, constant("shared/src/write/mod.rs", "FLUSH_BUDGET")?] {
        assert!(removal > longest, "{longest:?}");
    }
    Ok(())
}

/// Promise: the alarm that misses the streaming service's tasks is there with tasks only, and ECS
/// leaves one that ends the time to drain.
#[test]
fn the_streaming_service_has_tasks_and_they_have_time() -> TestResult {
    let number = |after: &str, name: &str| -> Result<u64, Error> {
        let (_, rest) = TEMPLATE.split_once(after).ok_or("not there")?;
        let (_, rest) = rest.split_once(name).ok_or("no number")?;
        Ok(rest.lines().next().unwrap_or_default().trim().parse()?)
    };
    assert_eq!(number("\n  StreamDesiredCount:\n", "MinValue:")?, 1);
    let credentials = OwnCredentials::Fixed(Credentials::from_keys("x", "x", None));
    let source = |name: &str| match name {
        "AWS_REGION" => Some("eu-central-1".to_owned()),
        "TENANT_ROLE_ARN" => Some("none".to_owned()),
        "TABLE_NAME" | "PARAMETER_ROOT" | "TOKEN_AUDIENCE" => Some("/x".to_owned()),
        "TOKEN_ISSUER" => Some("https://x".to_owned()),
        _ => None,
    };
    let settings = StreamSettings::load(&source, credentials)?;
    // As much again for the last snapshot.
    let least = (settings.drain_delay + settings.drain * 2).as_secs();
    assert!(number("\n  ConfigStreamTask:\n", "StopTimeout:")? >= least);
    Ok(())
}

/// Promise: who is woken by an alarm finds out what it means.
#[test]
fn alarms_point_into_the_runbook() -> TestResult {
    let runbook = source("docs/operations/runbook.md")?;
    let chapters: BTreeSet<_> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|title| title.to_lowercase().replace(' ', "-"))
        .collect();
    let named = TEMPLATE.split("docs/operations/runbook.md#").skip(1).filter_map(|rest| rest.split('"').next());
    let named: Vec<_> = named.map(str::to_owned).collect();
    assert_eq!(named.len(), TEMPLATE.matches("Type: AWS::CloudWatch::Alarm").count(), "one chapter for each alarm");
    assert_eq!(BTreeSet::from_iter(named), chapters);
    Ok(())
}
