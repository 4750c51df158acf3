"""Deploys the template into ministack with `sam deploy`, and has docs/operations/smoke drive what is deployed.

Arguments: ministack's address, the folder with the functions' binaries or what `sam build` made (.aws-sam/build), a folder for passing
files, the command `sam`, the ready file of a local suite. Deployed twice: with a user pool, and with that pool as somebody else's issuer.

Where the deployed copy differs from template.yaml, because ministack falls short of AWS: SAM's transform is applied here, and the
OpenAPI body that it makes of the HTTP API becomes routes, integrations and authorizers of their own, since ministack does not read
the body, and with it go the API's CORS, throttling and access log; alarms over several metrics are left out; a user pool has no ProviderURL. The architecture is this machine's, and the
functions reach ministack by the parameter AwsEndpointUrl. ministack enforces no role, throttle or reserved concurrency, and delivers
no event of the schedule: config-refresh is called by hand. So the wall between tenants is tried in the local suite's emulator.
"""

import importlib.machinery
import importlib.util
import io
import json
import os
import platform
import re
import subprocess
import sys
import zipfile

ENDPOINT, BINARIES, WORK, SAM, READY = sys.argv[1:6]
REGION, BUCKET = "eu-central-1", "artifacts"
os.environ.update(AWS_DEFAULT_REGION=REGION, AWS_REGION=REGION, AWS_ENDPOINT_URL=ENDPOINT)

import boto3  # noqa: E402 (it reads the environment)
from samtranslator.translator.transform import transform  # noqa: E402
from samtranslator.yaml_helper import yaml_parse  # noqa: E402


# ---- Deploying ----


def template_file():
    built = os.path.join(BINARIES, "template.yaml")
    return built if os.path.exists(built) else "template.yaml"


def uploaded(name, resource):
    """The address of a function's binary, zipped as Lambda takes it."""
    archive = io.BytesIO()
    path = os.path.join(BINARIES, name, "bootstrap")
    if not os.path.exists(path):
        path = os.path.join(BINARIES, resource["Metadata"]["BuildProperties"]["Binary"])
    with zipfile.ZipFile(archive, "w") as zipped, open(path, "rb") as binary:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        zipped.writestr(entry, binary.read(), zipfile.ZIP_DEFLATED, compresslevel=1)
    boto3.client("s3").put_object(Bucket=BUCKET, Key=name, Body=archive.getvalue())
    return f"s3://{BUCKET}/{name}"


class NoManagedPolicies:
    """SAM would ask IAM for the managed policies; the template names none."""

    def load(self):
        return {}


def transformed(template):
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = uploaded(name, resource)
    return transform(template, {}, NoManagedPolicies())


def with_routes(template):
    """Routes, integrations and authorizers in the place of the OpenAPI body."""
    resources = template["Resources"]
    [(api_id, api)] = [(name, one) for name, one in resources.items() if one["Type"] == "AWS::ApiGatewayV2::Api"]
    given = api["Properties"]
    body = given["Body"]
    api["Properties"] = {"Name": "tenantry", "ProtocolType": "HTTP"}

    def add(name, kind, **properties):
        resources[name] = {"Type": f"AWS::ApiGatewayV2::{kind}", "Properties": {"ApiId": {"Ref": api_id}, **properties}}

    schemes = body["components"]["securitySchemes"]
    named = {one for methods in body["paths"].values() for operation in methods.values() for pair in operation.get("security", []) for one in pair}
    assert given["FailOnWarnings"] is True and named == set(schemes), f"the import would warn: declared {set(schemes)}, named {named}"
    for name, scheme in schemes.items():
        authorizer = scheme["x-amazon-apigateway-authorizer"]
        jwt = authorizer["jwtConfiguration"]
        add(api_id + name, "Authorizer", AuthorizerType="JWT", Name=name, IdentitySource=[authorizer["identitySource"]],
            JwtConfiguration={"Issuer": jwt["issuer"], "Audience": jwt["audience"]})
    for path, methods in body["paths"].items():
        for method, operation in methods.items():
            name = re.sub(r"\W", "", f"{api_id}{method.title()}{path.title()}")
            integration = operation["x-amazon-apigateway-integration"]
            add(f"{name}Integration", "Integration", IntegrationType="AWS_PROXY", IntegrationUri=integration["uri"],
                PayloadFormatVersion=integration["payloadFormatVersion"])
            route = {"RouteKey": f"{method.upper()} {path}",
                     "Target": {"Fn::Join": ["/", ["integrations", {"Ref": f"{name}Integration"}]]}}
            for authorizer, scopes in [pair for one in operation.get("security", []) for pair in one.items()]:
                route.update(AuthorizationType="JWT", AuthorizerId={"Ref": api_id + authorizer}, AuthorizationScopes=scopes)
            add(f"{name}Route", "Route", **route)
    return template


def with_what_is_known(template):
    resources = template["Resources"]
    for name in list(resources):
        if resources[name]["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in resources[name]["Properties"]:
            del resources[name]
    return with_known_attributes(template)


def with_known_attributes(value):
    if isinstance(value, list):
        return [with_known_attributes(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("Fn::GetAtt") == ["UserPool", "ProviderURL"]:
        return {"Fn::Sub": "https://${UserPool.ProviderName}"}
    return {key: with_known_attributes(one) for key, one in value.items()}


boto3.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
with open(template_file()) as text:
    template = with_what_is_known(with_routes(transformed(yaml_parse(text.read()))))
to_deploy = os.path.join(WORK, "template.json")
with open(to_deploy, "w") as out:
    json.dump(template, out)


def deploy(stack, **parameters):
    """Deploys a stack: its outputs, and its resources by logical id."""
    parameters.update({
        "AwsEndpointUrl": ENDPOINT,
        "DeletionProtection": "false",
        "Architecture": "arm64" if platform.machine() == "aarch64" else "x86_64",
        "Tracing": "PassThrough",
    })
    with open(os.path.join(WORK, f"{stack}.log"), "w") as log:
        subprocess.run(
            [SAM, "deploy", "--template-file", to_deploy, "--stack-name", stack, "--s3-bucket", BUCKET, "--region", REGION,
             "--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset",
             "--parameter-overrides", *[f"{name}={value}" for name, value in parameters.items()]],
            check=True, stdout=log, stderr=log)
    cloudformation = boto3.client("cloudformation")
    outputs = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["Outputs"]
    resources = cloudformation.describe_stack_resources(StackName=stack)["StackResources"]
    print(f"deployed {stack}: {len(resources)} resources")
    return ({one["OutputKey"]: one["OutputValue"] for one in outputs},
            {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in resources})


# ---- What is deployed, driven by docs/operations/smoke ----


def loaded(path):
    """The script as a module."""
    loader = importlib.machinery.SourceFileLoader("smoke", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("smoke", loader))
    loader.exec_module(module)
    return module


SMOKE = "docs/operations/smoke"
smoke = loaded(SMOKE)
PASSWORD = "Correct-horse-battery-1"


def url_of(outputs):
    api = re.search(r"https://(\w+)\.", outputs["ApiUrl"]).group(1)
    return f"{ENDPOINT}/_aws/execute-api/{api}/$default"


def smoked(stack, outputs, **environment):
    # ministack's roles deny nothing, its API keeps no access log, and its sign-in page and its API
    # have addresses of their own.
    subprocess.run([sys.executable, SMOKE, stack, "--api-url", url_of(outputs), "--sign-in-url", ENDPOINT, "--sweep-by-hand",
                    "--skip", "wall", "--skip", "query"], check=True, env={**os.environ, **environment})


def token(pool, client, tenant):
    """The access token of a user who is made for it."""
    cognito = boto3.client("cognito-idp")
    name = f"{tenant}@example.com"
    cognito.admin_create_user(UserPoolId=pool, Username=name, MessageAction="SUPPRESS", TemporaryPassword=PASSWORD, UserAttributes=[
        {"Name": "email", "Value": name}, {"Name": "email_verified", "Value": "true"}, {"Name": "custom:tenantId", "Value": tenant}])
    cognito.admin_set_user_password(UserPoolId=pool, Username=name, Password=PASSWORD, Permanent=True)
    back = cognito.describe_user_pool_client(UserPoolId=pool, ClientId=client)["UserPoolClient"]["CallbackURLs"][0]
    return smoke.signed_in(ENDPOINT, client, back, name, PASSWORD, "config/read config/write config/secrets")


def parameters(path):
    return sorted(one["Name"] for one in boto3.client("ssm").get_parameters_by_path(Path=path, Recursive=True)["Parameters"])


outputs, resources = deploy("tenantry-pool", CreateUserPool="true")
smoked("tenantry-pool", outputs)
assert parameters("/") == [], "it takes away what it made"
pool, client = resources["UserPool"], resources["UserPoolClient"]
assert boto3.client("cognito-idp").list_users(UserPoolId=pool)["Users"] == []
# A copy of the role that functions take on for tenants, for who may not take on that one.
iam, role = boto3.client("iam"), resources["ConfigWriteTenantRole"]
with smoke.copied_role(iam, role, "arn:aws:iam::000000000000:user/operator") as copy:
    name = copy.rsplit("/", 1)[-1]
    [policy] = iam.list_role_policies(RoleName=name)["PolicyNames"]
    assert iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"] == iam.get_role_policy(
        RoleName=role, PolicyName=policy)["PolicyDocument"]
    # Where nothing is denied, that is what is found.
    try:
        smoke.check_wall(boto3.client, copy, resources["ConfigTable"], "/tenantry", "acme", "globex", patience=0)
    except smoke.Failed as found:
        assert "a transaction with an item of another tenant" in str(found), found
    else:
        sys.exit("ministack denies what it never did, or the check of the wall sees nothing")
assert name not in [one["RoleName"] for one in iam.list_roles()["Roles"]], "it is gone"

# The second suite of the account, with the first one's pool as somebody else's issuer.
acme, globex = token(pool, client, "acme"), token(pool, client, "globex")
smoke.Api(url_of(outputs), acme).call(201, "PUT", "/v1/config/param_config_k", {"value": "v"})
smoke.Api(url_of(outputs), acme).call(200, "GET", "/v1/config/param_config_k")
assert parameters("/tenantry") == ["/tenantry/acme/param_config_/k"], parameters("/tenantry")
# ministack's header apigw-requestid has another id than the event, and with it the line.
logs, group = boto3.client("logs"), resources["ConfigReadLogs"]
lines = [one["message"] for one in logs.filter_log_events(logGroupName=group)["events"] if one["message"].startswith("{")]
assert smoke.logged(logs, [group], json.loads(lines[-1])["requestId"]), lines[-1]
assert not smoke.logged(logs, [group, resources["ApiLogs"]], json.loads(lines[-1])["requestId"]), "the API has no lines here"
own, _ = deploy("tenantry-own", TokenIssuer=outputs["AcceptedIssuer"], TokenAudience=client, ParameterRoot="/own")
_, page = smoke.Api(url_of(own), acme).call(200, "GET", "/v1/config?prefix=")
assert page["entries"] == [], page
smoked("tenantry-own", own, SMOKE_TOKEN=acme, SMOKE_OTHER_TOKEN=globex)
assert parameters("/own") == [], parameters("/own")
_, page = smoke.Api(url_of(outputs), acme).call(200, "GET", "/v1/config?prefix=param_config_")
assert [entry["key"] for entry in page["entries"]] == ["param_config_k"], page

# ---- The wall between tenants, where roles are held to: the local suite's emulator ----

with open(READY) as ready:
    local = json.load(ready)["awsUrl"]


def local_clients(service, **credentials):
    # The function's own session, as in AWS: the administrator would get past every trust policy.
    if service == "sts":
        credentials = credentials or function
    credentials = credentials or {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    return boto3.client(service, endpoint_url=local, region_name="us-east-1", **credentials)


administrator = boto3.client("sts", endpoint_url=local, region_name="us-east-1", aws_access_key_id="local", aws_secret_access_key="local")
account = administrator.get_caller_identity()["Account"]
role = f"arn:aws:iam::{account}:role/tenantry-ConfigWrite"
session = administrator.assume_role(RoleArn=f"{role}Role", RoleSessionName="config-write")["Credentials"]
function = dict(aws_access_key_id=session["AccessKeyId"], aws_secret_access_key=session["SecretAccessKey"], aws_session_token=session["SessionToken"])
count = smoke.check_wall(local_clients, f"{role}TenantRole", "tenantry-ConfigTable", "/tenantry", "acme", "globex", patience=0)
print(f"ok  the wall, in the emulator: {count} attempts denied")
