//! Requests are read twice, by policies and by the service: here both have to read the same.

use emulator::{Emulator, RoleCredentials};
use serde_json::json;

use crate::clients::{Clients, Failure, Outcome, code, start, text};
use crate::roles::{ACCOUNT, TENANT_ROLE, add_roles, clients, given, options, role, tag, tenant};
use crate::wire::send;

/// Promise: what is taken for a query's partition key is what the engine queries. A reader that
/// differs would be a way around every policy of leading keys.
#[tokio::test]
async fn a_query_is_judged_by_the_key_that_it_reads() -> Outcome {
    let (emulator, admin) = start(options()).await;
    admin.table("config").await?;
    add_roles(&emulator)?;
    let acme = tenant(&emulator, "acme").await?;
    let sorts = ["x AND pk = :q", "pk", "TENANT#acme", "TENANT#globex"];
    for pk in ["TENANT#acme", "TENANT#globex"] {
        for sk in sorts {
            let put = admin.dynamodb.put_item().table_name("config").item("pk", text(pk)).item("sk", text(sk));
            put.send().await?;
        }
    }
    let names = [("#p", "pk"), ("#s", "sk"), ("#sk", "pk"), ("#pk", "sk"), ("#AND", "pk")];
    let values = [(":p", "TENANT#acme"), (":q", "TENANT#globex"), (":s", "x AND pk = :q"), (":pk", "TENANT#globex")];
    // Whether the engine answers with what is acme's.
    for (expression, expected) in [
        ("pk = :p", true),
        ("#p = :p", true),
        ("(pk = :p)", true),
        ("pk = :p AND sk = :s", true),
        ("sk = :s AND pk = :p", true),
        ("sk = :q and #p = :p", true),
        ("#AND = :p AND #s >= :s", true),
        ("#pk = :q AND #sk = :p", true),
        ("(sk > :q) AND (pk = :p)", true),
        ("begins_with(sk, :s) AND pk = :p", true),
        ("begins_with(#pk, :s) AND #sk = :p", true),
        ("sk BETWEEN :q AND :s AND pk = :p", true),
        ("pk = :p AND sk BETWEEN :q AND :pk", true),
        ("\tpk\n=:p", true),
        ("pk = :q", false),
        ("#p = :q AND sk = :p", false),
        ("sk = :p AND pk = :q", false),
        ("#pk = :p AND #sk = :q", false),
        ("sk BETWEEN :p AND :p AND pk = :q", false),
        ("begins_with(sk, :p) AND pk = :q", false),
        ("pk = :pk AND sk >= :p", false),
        ("pk = :p AND pk = :q", false),
        ("pk = :q AND pk = :p", false),
        ("#p = :p AND #sk = :q", false),
        ("pk = :q OR pk = :p", false),
        ("pk >= :p", false),
        ("pk BETWEEN :p AND :q", false),
        ("begins_with(pk, :p)", false),
        (":p = pk AND sk > :q", true),
        (":q < sk AND :p = #p", true),
        (":q = pk", false),
        (":p = sk AND :q = pk", false),
        (":p <= pk", false),
        ("((pk = :q))", false),
        ("sk = :p", false),
        ("pk = :p AND sk = :s AND sk = :q", false),
    ] {
        let query = |clients: &Clients| {
            let mut query = clients.dynamodb.query().table_name("config").key_condition_expression(expression);
            // Names and values that stand nowhere are refused.
            let words: Vec<_> =
                expression.split(|letter: char| !letter.is_alphanumeric() && !"#:_".contains(letter)).collect();
            for (name, stands_for) in names.iter().filter(|(name, _)| words.contains(name)) {
                query = query.expression_attribute_names(*name, *stands_for);
            }
            for (name, value) in values.iter().filter(|(name, _)| words.contains(name)) {
                query = query.expression_attribute_values(*name, text(*value));
            }
            query.send()
        };
        let engine = query(&admin).await;
        let is_own = engine.is_ok_and(|found| {
            !found.items().is_empty() && found.items().iter().all(|item| item.get("pk") == Some(&text("TENANT#acme")))
        });
        assert_eq!(is_own, expected, "{expression}: the engine");
        let expected = if expected { "ok" } else { "AccessDeniedException" };
        assert_eq!(code(query(&acme)).await, expected, "{expression}");
    }
    Ok(())
}

/// Promise: a statement is judged by the table that it reads, and where that is not sure, it is
/// refused.
#[tokio::test]
async fn a_statement_is_judged_by_the_table_that_it_reads() -> Outcome {
    let (emulator, admin) = start(options()).await;
    for table in ["own", "other", "FROM"] {
        admin.table(table).await?;
        admin.dynamodb.put_item().table_name(table).item("pk", text(table)).item("sk", text("own")).send().await?;
    }
    let tables = ["own", "FROM"].map(|name| format!("arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/{name}"));
    emulator.add_role(role(
        "reader",
        json!({ "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" }),
        json!({ "Effect": "Allow", "Action": "dynamodb:PartiQL*", "Resource": tables }),
    ))?;
    let credentials = emulator.credentials_of("reader").ok_or_else(|| Failure("none".to_owned()))?;
    let reader = clients(&emulator, credentials);
    for (statement, engine, expected) in [
        ("SELECT * FROM own", Some("own"), "ok"),
        ("select pk from \"own\" where sk = 'own'", Some("own"), "ok"),
        ("SELECT * FROM own WHERE sk <> ' FROM other'", Some("own"), "ok"),
        ("SELECT * FROM \"FROM\"", Some("FROM"), "ok"),
        ("SELECT * FROM own;", Some("own"), "ok"),
        ("SELECT * FROM other", Some("other"), "AccessDeniedException"),
        ("SELECT * FROM other WHERE sk = 'own'", Some("other"), "AccessDeniedException"),
        ("SELECT pk, \"FROM\" FROM other", Some("other"), "AccessDeniedException"),
        ("SELECT/* * FROM own */* FROM other", Some("other"), "AccessDeniedException"),
        ("SELECT -- FROM own\n * FROM other", Some("other"), "AccessDeniedException"),
        ("SELECT * FROM own--\n", Some("own"), "AccessDeniedException"),
        ("SELECT * FROM own, other", None, "AccessDeniedException"),
        ("SELECT * FROM 'own'", None, "AccessDeniedException"),
        ("EXISTS(SELECT * FROM own)", None, "AccessDeniedException"),
    ] {
        let found = admin.dynamodb.execute_statement().statement(statement).send().await.ok();
        let read = found.and_then(|found| found.items().first()?.get("pk")?.as_s().ok().cloned());
        // What the engine does with a text for a table is its own affair.
        if statement != "SELECT * FROM 'own'" {
            assert_eq!(read.as_deref(), engine, "{statement}: the engine");
        }
        assert_eq!(
            code(reader.dynamodb.execute_statement().statement(statement).send()).await,
            expected,
            "{statement}"
        );
    }
    // Writes, too: none of these changes the other table.
    for statement in [
        "INSERT INTO other VALUE {'pk': 'x', 'sk': 'y'}",
        "UPDATE other SET a = 'x' WHERE pk = 'other' AND sk = 'own'",
        "DELETE FROM other WHERE pk = 'other' AND sk = 'own'",
        "FROM other WHERE pk = 'other' AND sk = 'own' SET a = 'x'",
    ] {
        let denied = code(reader.dynamodb.execute_statement().statement(statement).send()).await;
        assert_eq!(denied, "AccessDeniedException", "{statement}");
        let own = statement.replace("other", "own");
        let expected = if own.starts_with("FROM") { "AccessDeniedException" } else { "ok" };
        assert_eq!(code(reader.dynamodb.execute_statement().statement(&own).send()).await, expected, "{own}");
    }
    let left = admin.dynamodb.scan().table_name("other").send().await?;
    assert_eq!((left.count(), left.items()[0].len()), (1, 2));
    Ok(())
}

/// Sends a body as a role, and says whether it was executed.
async fn raw(emulator: &Emulator, target: &str, credentials: &RoleCredentials, body: &str) -> Result<String, Failure> {
    let head = format!(
        "POST / HTTP/1.1\r\nX-Amz-Target: {target}\r\nContent-Type: application/x-amz-json-1.0\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential={}/20260101/us-east-1/any/aws4_request, SignedHeaders=host, Signature=b\r\n\
         X-Amz-Security-Token: {}\r\nX-Amz-Date: 20260101T000000Z",
        credentials.access_key_id, credentials.session_token
    );
    Ok(send(emulator, &head, body.as_bytes()).await?)
}

/// Promise: no odd spelling of a request goes past the policies: members given twice, lists in
/// place of objects, members that the operation does not know, bodies that only one side can read.
#[tokio::test]
async fn odd_requests_go_past_nobody() -> Outcome {
    let (emulator, admin) = start(options()).await;
    admin.table("config").await?;
    for pk in ["TENANT#acme", "TENANT#globex"] {
        admin.dynamodb.put_item().table_name("config").item("pk", text(pk)).item("sk", text("1")).send().await?;
    }
    admin.put_parameter("/tenantry/globex/a", "TENANT#globex").await?;
    add_roles(&emulator)?;
    let mine = r#"{"pk":{"S":"TENANT#acme"},"sk":{"S":"1"}}"#;
    let theirs = r#"{"pk":{"S":"TENANT#globex"},"sk":{"S":"1"}}"#;
    let twice = r#"{"pk":{"S":"TENANT#acme","S":"TENANT#globex"},"sk":{"S":"1"}}"#;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let statement = r#""SELECT * FROM config WHERE pk = 'TENANT#globex'""#;
    let bodies = [
        ("GetItem", format!(r#"{{"TableName":"config","Key":{twice}}}"#)),
        ("GetItem", format!(r#"{{"TableName":"config","Key":{mine},"Key":{theirs}}}"#)),
        ("GetItem", format!(r#"["config",{theirs}]"#)),
        ("TransactGetItems", format!(r#"{{"TransactItems":[[{{"TableName":"config","Key":{theirs}}}]]}}"#)),
        ("TransactGetItems", format!(r#"{{"TransactItems":[{{"Get":["config",{theirs}]}}]}}"#)),
        (
            "TransactGetItems",
            format!(r#"{{"TransactItems":[{{"Get":{{"TableName":"config","Key":{theirs}}}}}],"x":{deep}}}"#),
        ),
        (
            "TransactGetItems",
            format!(r#"{{"TransactItems":[{{"Get":{{"TableName":"config","Key":{theirs}}}}}],"x":1e999}}"#),
        ),
        ("BatchGetItem", format!(r#"{{"RequestItems":{{"config":[[{theirs}]]}}}}"#)),
        (
            "BatchGetItem",
            format!(r#"{{"RequestItems":{{"config":{{"Keys":[{mine}]}},"config":{{"Keys":[{theirs}]}}}}}}"#),
        ),
        (
            "Query",
            r#"{"TableName":"config","KeyConditionExpression":"pk = :p","ExpressionAttributeValues":
                {":p":{"S":"TENANT#acme"},":p":{"S":"TENANT#globex"}}}"#
                .to_owned(),
        ),
        ("Query", r#"{"TableName":"config","KeyConditions":{"pk":["EQ",[{"S":"TENANT#globex"}]]}}"#.to_owned()),
        ("ExecuteStatement", format!("[{statement}]")),
        ("BatchExecuteStatement", format!(r#"{{"Statements":[[{statement}]]}}"#)),
        ("ExecuteTransaction", format!(r#"{{"TransactStatements":[[{statement}]]}}"#)),
    ];
    let bodies = bodies.map(|(operation, body)| (format!("DynamoDB_20120810.{operation}"), body));
    let parameters = [
        ("GetParameters", r#"[null,["/tenantry/globex/a"],null,null,null,null,null,null,null]"#),
        ("GetParameters", r#"{"Name":"/tenantry/acme/a","Names":["/tenantry/globex/a"]}"#),
        ("GetParameter", r#"["/tenantry/globex/a"]"#),
        ("GetParameter", r#"{"Path":"/tenantry/acme/a","Name":"/tenantry/globex/a"}"#),
        ("GetParameter", r#"{"Name":"/tenantry/acme/a","Name":"/tenantry/globex/a"}"#),
        ("GetParametersByPath", r#"{"Name":"/tenantry/acme/a","Path":"/tenantry/globex"}"#),
    ];
    let parameters = parameters.map(|(operation, body)| (format!("AmazonSSM.{operation}"), body.to_owned()));
    let credentials = {
        let assumed =
            admin.sts.assume_role().role_arn(TENANT_ROLE).role_session_name("ab").tags(tag("TenantId", "acme")?);
        given(&assumed.send().await?)?
    };
    for (target, body) in bodies.into_iter().chain(parameters) {
        let answer = raw(&emulator, &target, &credentials, &body).await?;
        assert!(answer.starts_with("HTTP/1.1 4"), "{target} {body}: {answer}");
        let refused = ["AccessDeniedException", "SerializationException"];
        assert!(refused.iter().any(|code| answer.contains(code)), "{target} {body}: {answer}");
    }
    Ok(())
}
