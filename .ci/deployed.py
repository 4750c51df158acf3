"""Deploys the template into ministack with `sam deploy`, and drives what is deployed over HTTP.

Arguments: ministack's address, the folder with the functions' binaries or what `sam build` made (.aws-sam/build), a folder for passing
files, the command `sam`. Deployed twice: with a user pool, and with that pool as somebody else's issuer.

Where the deployed copy differs from template.yaml, because ministack falls short of AWS: SAM's transform is applied here, and the
OpenAPI body that it makes of the HTTP API becomes routes, integrations and authorizers of their own, since ministack does not read
the body, and with it go the API's CORS, throttling and access log; alarms over several metrics are left out; a user pool has no ProviderURL. The architecture is this machine's, and the
functions reach ministack by the parameter AwsEndpointUrl. ministack enforces no role, throttle or reserved concurrency, and delivers
no event of the schedule: config-refresh is called by hand.
"""

import io
import json
import os
import platform
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile

ENDPOINT, BINARIES, WORK, SAM = sys.argv[1:5]
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
    body = api["Properties"].pop("Body")
    api["Properties"] = {"Name": "tenantry", "ProtocolType": "HTTP"}

    def add(name, kind, **properties):
        resources[name] = {"Type": f"AWS::ApiGatewayV2::{kind}", "Properties": {"ApiId": {"Ref": api_id}, **properties}}

    for name, scheme in body["components"]["securitySchemes"].items():
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
                if authorizer != "NONE":
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


# ---- What is deployed, driven as a client would ----


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def send(method, url, body=None, headers=(), form=False):
    data = None if body is None else (urllib.parse.urlencode(body) if form else json.dumps(body)).encode()
    kind = "application/x-www-form-urlencoded" if form else "application/json"
    request = urllib.request.Request(url, data, {"content-type": kind, **dict(headers)}, method=method)
    try:
        answer = urllib.request.build_opener(NoRedirect).open(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.headers, answer.read().decode()


PASSWORD = "Correct-horse-battery-1"


def user(pool, tenant):
    """Makes a user of the tenant; its name."""
    cognito = boto3.client("cognito-idp")
    name = f"{tenant}@example.com"
    cognito.admin_create_user(UserPoolId=pool, Username=name, MessageAction="SUPPRESS", TemporaryPassword=PASSWORD, UserAttributes=[
        {"Name": "email", "Value": name}, {"Name": "email_verified", "Value": "true"}, {"Name": "custom:tenantId", "Value": tenant}])
    cognito.admin_set_user_password(UserPoolId=pool, Username=name, Password=PASSWORD, Permanent=True)
    return name


def token(pool, client, name, scope):
    """Signs a user in, as a browser would, and takes the access token."""
    back = boto3.client("cognito-idp").describe_user_pool_client(UserPoolId=pool, ClientId=client)["UserPoolClient"]["CallbackURLs"][0]
    asked = dict(client_id=client, redirect_uri=back, scope=f"openid {scope}", response_type="code", state="s")
    status, headers, page = send("POST", f"{ENDPOINT}/login", dict(asked, username=name, password=PASSWORD), form=True)
    code = urllib.parse.parse_qs(urllib.parse.urlparse(headers.get("location", "")).query).get("code")
    assert code, (status, page)
    status, _, answer = send("POST", f"{ENDPOINT}/oauth2/token", dict(
        grant_type="authorization_code", client_id=client, redirect_uri=back, code=code[0]), form=True)
    assert status == 200, answer
    return json.loads(answer)["access_token"]


def url_of(outputs):
    api = re.search(r"https://(\w+)\.", outputs["ApiUrl"]).group(1)
    return f"{ENDPOINT}/_aws/execute-api/{api}/$default"


def check(what, method, path, expected, body=None, headers=()):
    status, received, answer = send(method, f"{url}{path}", body, headers)
    print(f"{'ok ' if status == expected else 'NOT'} {status} {method} {path}  {what}")
    if status != expected:
        sys.exit(f"{what}: expected {expected}, got {status}: {answer}")
    return received, json.loads(answer) if answer else None


outputs, resources = deploy("tenantry-pool", CreateUserPool="true")
url = url_of(outputs)
pool, client = resources["UserPool"], resources["UserPoolClient"]
jane, jim = user(pool, "acme"), user(pool, "globex")
acme, globex, reader = ({"authorization": f"Bearer {token(pool, client, name, scope)}"} for name, scope in
                        ((jane, "config/read config/write config/secrets"), (jim, "config/read config/write config/secrets"), (jane, "config/read")))

check("health needs no token", "GET", "/healthz", 200)
check("no token", "GET", "/v1/config/tenant_config_limits", 401)
check("a token that is none", "GET", "/v1/config/tenant_config_limits", 401, headers={"authorization": "Bearer x.y.z"})
for key, value in (("tenant_config_limits", {"requestsPerSecond": 50}), ("param_config_db/primary/host", "db-1"), ("secret_config_key", "hush")):
    check("write", "PUT", f"/v1/config/{key}", 201, {"value": value}, acme)
    headers, entry = check("read", "GET", f"/v1/config/{key}", 200, headers=acme)
    assert entry["value"] == value, entry
    check("known", "GET", f"/v1/config/{key}", 304, headers=dict(acme, **{"if-none-match": headers["etag"]}))
    check("the other tenant", "GET", f"/v1/config/{key}", 404, headers=globex)
check("a secret without its scope", "GET", "/v1/config/secret_config_key", 403, headers=reader)
check("a token to read with", "PUT", "/v1/config/tenant_config_limits", 403, {"value": 1}, reader)
check("lost race", "PUT", "/v1/config/tenant_config_limits", 412, {"value": 1}, dict(acme, **{"if-match": '"9-000000000000"'}))
_, page = check("list", "GET", "/v1/config?prefix=param_config_", 200, headers=acme)
assert [entry["key"] for entry in page["entries"]] == ["param_config_db/primary/host"], page
names = [one["Name"] for one in boto3.client("ssm").get_parameters_by_path(Path="/tenantry/acme", Recursive=True)["Parameters"]]
assert sorted(names) == ["/tenantry/acme/param_config_/db/primary/host", "/tenantry/acme/secret_config_/key"], names
check("delete", "DELETE", "/v1/config/param_config_db/primary/host", 200, headers=acme)
check("gone", "GET", "/v1/config/param_config_db/primary/host", 404, headers=acme)
answer = boto3.client("lambda").invoke(FunctionName=resources["ConfigRefresh"], Payload=open("events/schedule.json", "rb").read())
swept = json.load(answer["Payload"])
assert "FunctionError" not in answer and swept["failed"] == 0, swept
print(f"ok      config-refresh by hand: {swept}")

outputs, _ = deploy("tenantry-own", TokenIssuer=outputs["AcceptedIssuer"], TokenAudience=client, ParameterRoot="/own")
url = url_of(outputs)
check("another suite, without a token", "GET", "/v1/config?prefix=", 401)
_, page = check("its list, of another table", "GET", "/v1/config?prefix=", 200, headers=acme)
assert page["entries"] == [], page
check("write", "PUT", "/v1/config/param_config_k", 201, {"value": "v"}, acme)
names = [one["Name"] for one in boto3.client("ssm").get_parameters_by_path(Path="/own/acme", Recursive=True)["Parameters"]]
assert names == ["/own/acme/param_config_/k"], names
