"""Holds the policy of a tenant's session against ministack, which evaluates it by itself (AUTH=true): whatever the role allows, the
session reaches the parameters of its own tenant only. Not the items: ministack passes over dynamodb:LeadingKeys. And by calls with one
name only: it takes those with several, such as GetParameters, for calls on no parameter.

Arguments: ministack's address, the tenant's session policy.
"""

import sys

import boto3
from botocore.exceptions import ClientError

ENDPOINT, POLICY = sys.argv[1:3]
ACCOUNT = "000000000000"


def client(service, **credentials):
    return boto3.client(service, endpoint_url=ENDPOINT, region_name="us-east-1", **credentials)


administrator = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
iam, ssm = client("iam", **administrator), client("ssm", **administrator)
everybody = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"*"},"Action":["sts:AssumeRole","sts:TagSession"]}}'
everything = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}'
role = iam.create_role(RoleName="everything", AssumeRolePolicyDocument=everybody)["Role"]["Arn"]
iam.put_role_policy(RoleName="everything", PolicyName="everything", PolicyDocument=everything)
TENANTS = ["acme", "acme-eu", "acm", "globex"]
for tenant in TENANTS:
    ssm.put_parameter(Name=f"/tenantry/{tenant}/param_config_/k", Value=tenant, Type="String")


def session(**more):
    assumed = client("sts", **administrator).assume_role(
        RoleArn=role, RoleSessionName="@acme", Tags=[{"Key": "TenantId", "Value": "acme"}], **more)["Credentials"]
    return client("ssm", aws_access_key_id=assumed["AccessKeyId"], aws_secret_access_key=assumed["SecretAccessKey"],
                  aws_session_token=assumed["SessionToken"])


def allowed(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] == "AccessDeniedException":
            return False
        raise
    return True


def check(what, expected, call, **arguments):
    found = allowed(call, **arguments)
    print(f"{'ok ' if found == expected else 'NOT'} {'allowed' if found else 'denied '}  {what}")
    if found != expected:
        sys.exit(f"{what}: expected {'allowed' if expected else 'denied'}")


wide, narrow = session(), session(Policy=POLICY)
for tenant in TENANTS:
    name, own = f"/tenantry/{tenant}/param_config_/k", tenant == "acme"
    check(f"without a session policy: GetParameter of {tenant}", True, wide.get_parameter, Name=name)
    check(f"GetParameter of {tenant}", own, narrow.get_parameter, Name=name)
    check(f"GetParameterHistory of {tenant}", own, narrow.get_parameter_history, Name=name)
    check(f"PutParameter of {tenant}", own, narrow.put_parameter, Name=name, Value="new", Overwrite=True)
    check(f"DeleteParameter of {tenant}", own, narrow.delete_parameter, Name=name)
for path in ["/", "/tenantry", "/tenantry/globex"]:
    check(f"GetParametersByPath {path}", False, narrow.get_parameters_by_path, Path=path, Recursive=True)
check("DescribeParameters", False, narrow.describe_parameters)
