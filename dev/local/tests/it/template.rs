//! The real template: local runs see all of it.

use std::{collections::BTreeMap, time::Duration};

use local::template::{Authorizer, Deployment, EventSource, Queue, Rule, Schedule, Stack, TEMPLATE, Target};
use serde_json::json;

fn deployment() -> Deployment {
    Deployment {
        region: "eu-central-1".into(),
        account: "123456789012".into(),
        stack: "tenantry".into(),
        parameters: BTreeMap::from([
            ("TokenIssuer".into(), "http://issuer".into()),
            ("TokenAudience".into(), "a, b".into()),
        ]),
    }
}

/// Promise: every route of the API exists, with its scope, on the function that may carry it out;
/// health alone is open.
#[test]
fn routes_and_scopes() {
    let stack = Stack::read(TEMPLATE, &deployment()).unwrap();
    let mut routes: Vec<_> = stack
        .api
        .routes
        .iter()
        .map(|route| {
            let scope = if route.authorizer.is_some() { route.scopes.join(" ") } else { "open".into() };
            format!("{} {} {} {scope}", route.method, route.path, route.function)
        })
        .collect();
    routes.sort();
    assert_eq!(
        routes,
        [
            "DELETE /v1/config/{key+} config-write config/write",
            "GET /healthz config-read open",
            "GET /v1/changes config-read config/read",
            "GET /v1/config config-read config/read",
            "GET /v1/config/{key+} config-read config/read",
            "GET /v1/history/{key+} config-read config/read",
            "HEAD /healthz config-read open",
            "HEAD /v1/changes config-read config/read",
            "HEAD /v1/config config-read config/read",
            "HEAD /v1/config/{key+} config-read config/read",
            "HEAD /v1/history/{key+} config-read config/read",
            "POST /v1/batch-get config-read config/read",
            "POST /v1/rollback/{key+} config-write config/write",
            "POST /v1/transactions config-write config/write",
            "PUT /v1/config/{key+} config-write config/write",
        ]
    );
    let tokens = Authorizer { issuer: "http://issuer".into(), audience: vec!["a".into(), "b".into()] };
    assert_eq!(stack.api.authorizers, BTreeMap::from([("Tokens".to_owned(), tokens)]));
}

/// Promise: where scopes lie in claims that API Gateway does not look into, it demands none; the
/// functions do. The authorizer stays.
#[test]
fn scopes_elsewhere_are_not_demanded_by_the_authorizer() {
    let mut deployment = deployment();
    deployment.parameters.insert("ScopeClaims".into(), "permissions".into());
    let stack = Stack::read(TEMPLATE, &deployment).unwrap();
    for route in &stack.api.routes {
        assert!(route.scopes.is_empty(), "{} {}", route.method, route.path);
        assert_eq!(route.authorizer.is_none(), route.path == "/healthz", "{} {}", route.method, route.path);
    }
    assert_eq!(stack.functions["config-write"].environment["SCOPE_CLAIMS"], "permissions");
}

/// Promise: each function is told the same but for its roles, in texts, with nothing left
/// unresolved.
#[test]
fn environments() {
    let stack = Stack::read(TEMPLATE, &deployment()).unwrap();
    let expected: BTreeMap<String, String> = [
        ("AUTHOR_CLAIM", "sub"),
        ("CACHE_MAX_BYTES", "33554432"),
        ("EVENT_BUS_NAME", "tenantry-config"),
        ("PARAMETER_ROOT", "/tenantry"),
        ("RUST_LOG", "info"),
        ("SCOPE_CLAIMS", "scope,scp"),
        ("TABLE_NAME", "tenantry-ConfigTable"),
        ("TENANT_BURST_LIMIT", "200"),
        ("TENANT_CLAIM", "custom:tenantId"),
        ("TENANT_RATE_LIMIT", "100"),
        ("TOKEN_AUDIENCE", "a,b"),
        ("TOKEN_ISSUER", "http://issuer"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let names: Vec<_> = stack.functions.keys().collect();
    assert_eq!(names, ["config-read", "config-refresh", "config-write"]);
    for (name, logical) in [("config-read", "Read"), ("config-refresh", "Refresh"), ("config-write", "Write")] {
        let role = |kind: &str| format!("arn:aws:iam::123456789012:role/tenantry-Config{logical}{kind}Role");
        let mut expected = expected.clone();
        expected.insert("TENANT_ROLE_ARN".to_owned(), role("Tenant"));
        if name == "config-refresh" {
            expected.insert("SYSTEM_ROLE_ARN".to_owned(), role("System"));
        }
        assert_eq!(stack.functions[name].environment, expected, "{name}");
    }
}

/// Promise: a setting that is empty in the template is absent in the environment, and present once
/// it is given.
#[test]
fn optional_settings_follow_their_parameters() {
    let mut deployment = deployment();
    deployment.parameters.insert("TagRoutes".into(), "{}".into());
    deployment.parameters.insert("ParameterKmsKeyArn".into(), "arn:aws:kms:x".into());
    let stack = Stack::read(TEMPLATE, &deployment).unwrap();
    let environment = &stack.functions["config-write"].environment;
    assert_eq!(environment["TAG_ROUTES"], "{}");
    assert_eq!(environment["PARAMETER_KMS_KEY_ID"], "arn:aws:kms:x");
}

#[test]
fn table_rules_and_schedule() {
    let stack = Stack::read(TEMPLATE, &deployment()).unwrap();
    let [table] = stack.tables.as_slice() else { panic!("{:?}", stack.tables) };
    assert_eq!(table.name, "tenantry-ConfigTable");
    assert_eq!(
        table.properties["KeySchema"],
        json!([{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}])
    );
    let indexes: Vec<_> = table.properties["GlobalSecondaryIndexes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|index| {
            format!(
                "{} {} {}",
                index["IndexName"], index["KeySchema"][0]["AttributeName"], index["Projection"]["ProjectionType"]
            )
        })
        .collect();
    assert_eq!(indexes, [r#""changes-by-time" "timeShard" "KEYS_ONLY""#, r#""outbox" "outboxShard" "KEYS_ONLY""#]);
    assert_eq!(table.properties["TimeToLiveSpecification"], json!({"AttributeName": "expiresAt", "Enabled": true}));

    let (function, queue) = ("config-refresh".to_owned(), "tenantry-RefreshEvents".to_owned());
    assert_eq!(
        stack.rules,
        [
            Rule {
                name: "tenantry-ConfigRefreshConfigChanged".into(),
                bus: "tenantry-config".into(),
                pattern: json!({"source": ["tenantry"], "detail-type": ["Config Changed"]}),
                target: Target::Queue(queue.clone()),
            },
            Rule {
                name: "tenantry-ConfigRefreshParameterStoreChange".into(),
                bus: "default".into(),
                pattern: json!({
                    "source": ["aws.ssm"],
                    "detail-type": ["Parameter Store Change"],
                    "detail": {"name": [{"prefix": "/tenantry/"}]},
                }),
                target: Target::Queue(queue.clone()),
            },
        ]
    );
    let source = EventSource { queue, function: function.clone(), batch_size: 10, max_concurrency: 10 };
    assert_eq!(stack.sources, [source]);
    let schedule = Schedule { name: "ConfigRefreshOutbox".into(), every: Duration::from_mins(1), function };
    assert_eq!(stack.schedules, [schedule]);
}

/// Promise: a resource is there if its condition holds, and a function takes of the globals what it
/// does not ignore.
#[test]
fn conditions_and_globals() {
    let template = "
Parameters: {Flag: {Type: String, Default: 'no'}}
Conditions: {On: !Equals [!Ref Flag, 'yes']}
Globals: {Function: {Timeout: 7, Environment: {Variables: {A: a}}}}
Resources:
  One: {Type: 'AWS::Serverless::Function', Metadata: {BuildProperties: {Binary: one}}, Properties: {Timeout: 9}}
  Two:
    Type: AWS::Serverless::Function
    IgnoreGlobals: [Environment]
    Metadata: {BuildProperties: {Binary: two}}
    Properties: {Environment: {Variables: {B: b}}}
  Three:
    Type: AWS::Serverless::Function
    Condition: On
    IgnoreGlobals: '*'
    Metadata: {BuildProperties: {Binary: three}}
    Properties: {}
  Pool: {Type: 'AWS::Cognito::UserPool', Condition: Off}
";
    let read = |template: &str, flag: &str| {
        let mut deployment = deployment();
        deployment.parameters = BTreeMap::from([("Flag".into(), flag.into())]);
        let functions = Stack::read(template, &deployment).map_err(|error| error.to_string())?.functions;
        let described = functions.iter().map(|(name, function)| {
            let variables: Vec<_> = function.environment.keys().map(String::as_str).collect();
            format!("{name} {} {}", function.timeout.as_secs(), variables.join(" "))
        });
        Ok::<_, String>(described.collect::<Vec<_>>())
    };
    assert_eq!(read(template, "no"), Err("Pool.Condition".into()), "there is no condition Off");
    let template = template.replace("Condition: Off", "Condition: On");
    assert_eq!(read(&template, "no"), Ok(vec!["one 9 A".into(), "two 7 B".into()]));
    assert_eq!(read(&template, "yes"), Err("Pool: AWS::Cognito::UserPool is not run locally".into()));
    let template = template.replace("AWS::Cognito::UserPool", "AWS::SQS::Queue");
    assert_eq!(read(&template, "yes"), Ok(vec!["one 9 A".into(), "three 3 ".into(), "two 7 B".into()]));
}

/// The template with the streaming service.
fn with_stream(more: &[(&str, &str)]) -> Deployment {
    let mut deployment = deployment();
    let given = [("StreamImage", "local")].into_iter().chain(more.iter().copied());
    deployment.parameters.extend(given.map(|(name, value)| (name.to_owned(), value.to_owned())));
    deployment
}

/// Promise: the streaming service is there with its image only, and then with the functions'
/// settings, roles of its own, and a queue that is fed with the changes and is the one that the
/// service is told of.
#[test]
fn the_streaming_service() {
    let without = Stack::read(TEMPLATE, &deployment()).unwrap();
    assert_eq!(without.stream, None);
    assert!(without.roles.iter().all(|role| !role.name.contains("Stream")));

    let stack = Stack::read(TEMPLATE, &with_stream(&[])).unwrap();
    let hints = "tenantry-ConfigStreamHints".to_owned();
    let second = Duration::from_secs;
    let queue = Queue { name: hints.clone(), visibility_timeout: second(10), retention: second(60) };
    assert!(stack.queues.contains(&queue), "{:?}", stack.queues);
    let feeds = |rule: &&Rule| rule.target == Target::Queue(hints.clone());
    let rules: Vec<_> = stack.rules.iter().filter(feeds).collect();
    let rule = Rule {
        name: "tenantry-ConfigStreamConfigChanged".into(),
        bus: "tenantry-config".into(),
        pattern: json!({"source": ["tenantry"], "detail-type": ["Config Changed"]}),
        target: Target::Queue(hints.clone()),
    };
    assert_eq!(rules, [&rule]);

    let arn = |kind: &str| format!("arn:aws:iam::123456789012:role/tenantry-ConfigStream{kind}Role");
    let mut expected = stack.functions["config-read"].environment.clone();
    // It publishes nothing.
    expected.remove("EVENT_BUS_NAME");
    let own = [
        ("AWS_REGION", "eu-central-1".to_owned()),
        ("CACHE_MAX_BYTES", "268435456".to_owned()),
        ("CHANGE_QUEUE_URL", format!("https://sqs.eu-central-1.amazonaws.com/123456789012/{hints}")),
        ("GRPC_ADDRESS", "0.0.0.0:50051".to_owned()),
        ("METRICS_ADDRESS", "0.0.0.0:9090".to_owned()),
        ("SYSTEM_ROLE_ARN", arn("System")),
        ("TENANT_ROLE_ARN", arn("Tenant")),
    ];
    expected.extend(own.map(|(name, value)| (name.to_owned(), value)));
    let stream = stack.stream.unwrap();
    assert_eq!(stream.environment, expected);
    assert_eq!((stream.role.as_str(), stream.secrets.len()), ("tenantry-ConfigStreamTaskRole", 0));
    assert!(stack.roles.iter().any(|role| role.name == stream.role));

    let own_rights = Stack::read(TEMPLATE, &with_stream(&[("TenantCredentials", "false")])).unwrap().stream.unwrap();
    assert_eq!(own_rights.environment["TENANT_ROLE_ARN"], "none");
    assert!(!own_rights.environment.contains_key("SYSTEM_ROLE_ARN"));
    let key = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:key-a";
    let with_key = Stack::read(TEMPLATE, &with_stream(&[("StreamSnapshotKeyArn", key)])).unwrap().stream.unwrap();
    assert_eq!(with_key.secrets, BTreeMap::from([("SNAPSHOT_KEY".to_owned(), key.to_owned())]));
    assert_eq!(with_key.environment["SNAPSHOT_FILE"], "/snapshot/config-stream");
}

/// Promise: tenants that are watched and those that are not take a quarter of the task's memory
/// each, so that there is room for the rest.
#[test]
fn tenants_take_half_of_the_memory() {
    for memory in [1024_u64, 2048, 4096, 8192, 16384] {
        let stack = Stack::read(TEMPLATE, &with_stream(&[("StreamMemory", &memory.to_string())])).unwrap();
        let bytes: u64 = stack.stream.unwrap().environment["CACHE_MAX_BYTES"].parse().unwrap();
        assert_eq!(bytes * 4, memory * 1024 * 1024);
    }
}

/// Promise: a rule, queue or container of a kind that local runs do not have is named at start.
#[test]
fn what_of_the_stream_cannot_be_run_is_refused_by_name() {
    let arn = "          Arn: !GetAtt ConfigStreamHints.Arn\n";
    let retries = "          RetryPolicy: { MaximumEventAgeInSeconds: 60, MaximumRetryAttempts: 1 }\n";
    let targets = &format!("      Targets:\n        - Id: hints\n{arn}{retries}");
    let second = "- { Name: TENANT_CLAIM, Value: x }\n            - { Name: AWS_REGION,";
    for (found, replacement, message) in [
        (targets.as_str(), "      Targets: []\n", "a rule that has not one target"),
        (targets, &targets.replace("ConfigStreamHints", "ConfigTable"), "is no queue of the template"),
        (targets, &format!("{targets}          Input: '{{}}'\n"), "unknown field `Input`"),
        (targets, &format!("      State: DISABLED\n{targets}"), "unknown field `State`"),
        ("MessageRetentionPeriod: 60", "FifoQueue: true", "a FIFO queue is not run locally"),
        ("TaskRoleArn: !GetAtt ConfigStreamTaskRole.Arn", "TaskRoleArn: x", "must be a role of the template"),
        ("- { Name: AWS_REGION,", second, "TENANT_CLAIM is given twice"),
        ("- Name: config-stream\n", "- Name: other\n        - Name: config-stream\n", "has not one container"),
    ] {
        assert!(TEMPLATE.contains(found), "{found}");
        let error = Stack::read(&TEMPLATE.replace(found, replacement), &with_stream(&[])).unwrap_err().to_string();
        assert!(error.contains(message), "{replacement}: {error}");
    }
}

/// Promise: a user pool is refused by name, rather than tokens that nobody issues expected.
#[test]
fn the_user_pool_is_not_run_locally() {
    let mut deployment = deployment();
    deployment.parameters.insert("CreateUserPool".into(), "true".into());
    let error = Stack::read(TEMPLATE, &deployment).unwrap_err().to_string();
    assert_eq!(error, "UserPool: AWS::Cognito::UserPool is not run locally");
}

/// Promise: what is asked for and has no effect locally is named at start: a property of the API
/// that is not carried out, and a parameter that nothing here reads. Those that have an effect are
/// not.
#[test]
fn what_has_no_effect_is_named() {
    let named = |template: &str, given: &[(&str, &str)]| {
        let mut deployment = deployment();
        deployment.parameters.extend(given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Stack::read(template, &deployment).unwrap().not_honoured
    };
    assert_eq!(named(TEMPLATE, &[]), Vec::<String>::new());
    let used = [
        ("CorsOrigins", "*"),
        ("TagRoutes", "{}"),
        ("TenantRateLimit", "7"),
        ("StreamImage", "local"),
        ("CreateUserPool", "false"),
        ("TenantCredentials", "false"),
    ];
    assert_eq!(named(TEMPLATE, &used), Vec::<String>::new());
    for unused in
        ["ThrottlingRate", "ThrottlingBurst", "LogRetentionDays", "NotificationTopicArn", "StreamDesiredCount"]
    {
        let sentence = format!("the parameter {unused} changes nothing that runs here");
        assert_eq!(named(TEMPLATE, &[(unused, "1"), ("CorsOrigins", "")]), [sentence]);
    }
    let stage = TEMPLATE.replace("StageName: $default", "StageName: v2");
    assert_eq!(named(&stage, &[]), ["Api.StageName of template.yaml is not honoured here"]);
    let domain = TEMPLATE.replace("      StageName: $default", "      StageName: $default\n      Domain: {}");
    assert_eq!(named(&domain, &[]), ["Api.Domain of template.yaml is not honoured here"]);
}

/// Promise: the API's rules for pages of other origins are the template's, and there are none
/// without origins.
#[test]
fn rules_for_other_origins() {
    let cors = |template: &str, origins: &str| {
        let mut deployment = deployment();
        deployment.parameters.insert("CorsOrigins".into(), origins.into());
        Stack::read(template, &deployment).map(|stack| stack.api.cors).map_err(|error| error.to_string())
    };
    assert_eq!(cors(TEMPLATE, ""), Ok(None));
    let rules = cors(TEMPLATE, "https://a.example, https://b.example").unwrap().unwrap();
    assert_eq!(rules.allow_origins, ["https://a.example", "https://b.example"]);
    assert_eq!((rules.allow_methods.len(), rules.max_age, rules.allow_credentials), (5, Some(600), false));
    let other = cors(&TEMPLATE.replace("MaxAge: 600", "Maxage: 600"), "*").unwrap_err();
    assert!(other.contains("unknown field `Maxage`"), "{other}");
}

/// Promise: what cannot be run locally is named at start; a route is never silently missing.
#[test]
fn what_cannot_be_run_is_refused_by_name() {
    for (found, replacement, message) in [
        ("AWS::Events::EventBus", "AWS::Events::Rule", "ConfigBus: AWS::Events::Rule is not run locally"),
        ("rate(1 minute)", "cron(0 * * * ? *)", "Events.Outbox: cron(0 * * * ? *) is not run locally"),
        ("Type: Schedule\n", "Type: Kinesis\n", "Events.Outbox: an event of type \"Kinesis\" is not run locally"),
        ("[ReportBatchItemFailures]", "[]", "Events.Changes: invalid length 0"),
        ("            BatchSize: 10\n", "", "Events.Changes: missing field `BatchSize`"),
        ("Authorizer: Tokens\n", "Authorizer: Other\n", "the API has no authorizer Other"),
        ("Authorizer: Tokens\n", "Authorizer: NONE\n", "only where the API has a default authorizer"),
        ("              Authorizer: Tokens\n", "", "scopes without an authorizer"),
        ("Path: /healthz", "Path: healthz", "Events.GetHealth: the path healthz must begin with a slash"),
        ("Path: /healthz", "Path: /v1/changes", "a second route GET /v1/changes"),
        ("Path: /healthz", "", "missing field `Path`"),
        ("ApiId: !Ref Api\n", "ApiId: other\n", "ApiId must refer to the template's HTTP API"),
        ("$request.header.Authorization", "$request.querystring.t", "is not read locally"),
        ("TABLE_NAME: !Ref ConfigTable", "TABLE_NAME: !ImportValue x", "Environment.Variables"),
        ("Binary: config-write", "Binary: config-read", "a second function with the binary config-read"),
        (
            "TenantClaim:\n    Type: String\n    Default: custom:tenantId",
            "TenantClaim:\n    Type: String",
            "Environment.Variables",
        ),
    ] {
        assert!(TEMPLATE.contains(found), "{found}");
        let error = Stack::read(&TEMPLATE.replace(found, replacement), &deployment()).unwrap_err().to_string();
        assert!(error.contains(message), "{replacement}: {error}");
    }
    let mut other = deployment();
    other.parameters.insert("Tagroutes".into(), String::new());
    assert!(Stack::read(TEMPLATE, &other).is_err());
}
