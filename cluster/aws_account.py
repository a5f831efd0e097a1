"""What an AWS account needs before `ray up`: network rules, roles, the cluster's token, a bucket, a registry.

`up` makes what is not there and prints the five values that ray_cluster.yaml asks for; run again it changes nothing but
the owner's address. `down` removes all of it except a bucket or registry that holds anything. Credentials come from
boto3's usual chain; nothing secret is printed or written on this machine.
"""

import argparse
import json
import secrets
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.exceptions import ClientError

NAME = "cslm"
TRAIN = "cslm-train"
HEAD, WORKER = "cslm-head", "cslm-worker"
# Read by nodes when they start; see fetch_token.py.
TOKEN, PASSWORD, BUCKET = "/cslm/ray-auth-token", "/cslm/mlflow-password", "/cslm/bucket"
# AWS's own pointer to its newest machine image with NVIDIA's driver and Docker.
MACHINE_IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
_ABSENT = (
    *("InvalidGroup.NotFound", "InvalidPlacementGroup.Unknown", "InvalidLaunchTemplateName.NotFoundException"),
    *("NoSuchEntity", "ParameterNotFound", "404", "NoSuchBucket", "RepositoryNotFoundException"),
)
_NOT_EMPTY = ("BucketNotEmpty", "RepositoryNotEmptyException")


class Account:
    """One region of the account that the credentials at hand belong to."""

    def __init__(self, region: str, zone: str) -> None:
        self.region, self.zone = region, zone
        self._session = boto3.Session(region_name=region)
        self.ec2, self.iam, self.s3 = (self._session.client(name) for name in ("ec2", "iam", "s3"))
        self.ssm, self.ecr = (self._session.client(name) for name in ("ssm", "ecr"))
        self.number = self._session.client("sts").get_caller_identity()["Account"]
        self.bucket = f"{NAME}-{self.number}-{region}"

    def up(self, owner: str, machine_image: str | None) -> dict[str, str]:
        """Make what is missing; the values of ray_cluster.yaml."""
        vpc, subnet = self._network()
        group = self._security_group(vpc, owner)
        self._placement(subnet, group)
        self._bucket_there()
        repository = self._repository()
        self._parameters()
        self._role(WORKER, self._worker_rights())
        self._role(HEAD, [*self._worker_rights(), *self._head_rights()])
        image = machine_image or self.ssm.get_parameter(Name=MACHINE_IMAGE)["Parameter"]["Value"]
        return {
            "region": self.region,
            "availability_zone": self.zone,
            "machine_image": image,
            "security_group": group,
            "image": f"{repository}@sha256:...",
        }

    def down(self) -> list[str]:
        """Remove what `up` made; what was kept, since it holds something."""
        for name in (HEAD, WORKER):
            with gone():
                self.iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
            with gone():
                self.iam.delete_instance_profile(InstanceProfileName=name)
            with gone():
                self.iam.delete_role_policy(RoleName=name, PolicyName=NAME)
            with gone():
                self.iam.delete_role(RoleName=name)
        with gone():
            for template in self.ec2.describe_launch_templates(LaunchTemplateNames=[TRAIN])["LaunchTemplates"]:
                self.ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
        with gone():
            self.ec2.delete_placement_group(GroupName=TRAIN)
        for group in self._groups():
            self.ec2.delete_security_group(GroupId=group["GroupId"])
        for name in (TOKEN, PASSWORD, BUCKET):
            with gone():
                self.ssm.delete_parameter(Name=name)
        kept = []
        if not removed(lambda: self.s3.delete_bucket(Bucket=self.bucket)):
            kept.append(f"s3://{self.bucket}")
        if not removed(lambda: self.ecr.delete_repository(repositoryName=NAME)):
            kept.append(f"the registry {NAME}")
        return kept

    def _network(self) -> tuple[str, str]:
        """The default network and its subnet in the zone."""
        wanted = {"availability-zone": self.zone, "default-for-az": "true"}
        found = self.ec2.describe_subnets(Filters=[{"Name": key, "Values": [value]} for key, value in wanted.items()])
        if not found["Subnets"]:
            sys.exit(f"{self.zone} must have a default subnet, found none; aws ec2 create-default-subnet makes one")
        return found["Subnets"][0]["VpcId"], found["Subnets"][0]["SubnetId"]

    def _groups(self) -> list[dict[str, Any]]:
        return list(
            self.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [NAME]}])["SecurityGroups"]
        )

    def _security_group(self, vpc: str, owner: str) -> str:
        """Open to itself, and for SSH to the owner; EFA wants both directions named."""
        found = [group for group in self._groups() if group["VpcId"] == vpc]
        if found:
            group, rules = found[0]["GroupId"], found[0]["IpPermissions"]
        else:
            made = self.ec2.create_security_group(GroupName=NAME, VpcId=vpc, Description="nodes of the cluster cslm")
            group, rules = made["GroupId"], []
            within = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
            self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=within)
            self.ec2.authorize_security_group_egress(GroupId=group, IpPermissions=within)
        ssh = [rule for rule in rules if rule.get("FromPort") == 22]
        if ssh and [one["CidrIp"] for rule in ssh for one in rule["IpRanges"]] == [f"{owner}/32"]:
            return str(group)
        if ssh:
            self.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=ssh)
        opened = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": f"{owner}/32"}]}
        self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[opened])
        return str(group)

    def _placement(self, subnet: str, group: str) -> None:
        """Training nodes lie close together and have one EFA interface, which may have a public address.

        All 32 of a p5 may not: they need a private subnet with a NAT gateway, and a version of this template.
        """
        if absent(lambda: self.ec2.describe_placement_groups(GroupNames=[TRAIN])):
            self.ec2.create_placement_group(GroupName=TRAIN, Strategy="cluster")
        interface = {
            "DeviceIndex": 0,
            "NetworkCardIndex": 0,
            "InterfaceType": "efa",
            "SubnetId": subnet,
            "Groups": [group],
            "AssociatePublicIpAddress": True,
        }
        if absent(lambda: self.ec2.describe_launch_templates(LaunchTemplateNames=[TRAIN])):
            data = {"Placement": {"GroupName": TRAIN}, "NetworkInterfaces": [interface]}
            self.ec2.create_launch_template(LaunchTemplateName=TRAIN, LaunchTemplateData=data)

    def _bucket_there(self) -> None:
        """Private, encrypted, and what was uploaded in part does not stay."""
        if absent(lambda: self.s3.head_bucket(Bucket=self.bucket)):
            where = {} if self.region == "us-east-1" else {"LocationConstraint": self.region}
            self.s3.create_bucket(Bucket=self.bucket, **({"CreateBucketConfiguration": where} if where else {}))
        closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        self.s3.put_public_access_block(Bucket=self.bucket, PublicAccessBlockConfiguration=dict.fromkeys(closed, True))
        rule = {"ID": "parts", "Status": "Enabled", "Filter": {"Prefix": ""}}
        rule["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": 7}
        self.s3.put_bucket_lifecycle_configuration(Bucket=self.bucket, LifecycleConfiguration={"Rules": [rule]})

    def _repository(self) -> str:
        if absent(lambda: self.ecr.describe_repositories(repositoryNames=[NAME])):
            self.ecr.create_repository(repositoryName=NAME, imageTagMutability="IMMUTABLE")
        return str(self.ecr.describe_repositories(repositoryNames=[NAME])["repositories"][0]["repositoryUri"])

    def _parameters(self) -> None:
        """What Ray and MLflow ask of everyone, and the bucket; nodes read them by their role, the owner by theirs."""
        for name in (TOKEN, PASSWORD):
            if absent(lambda name=name: self.ssm.get_parameter(Name=name)):  # type: ignore[misc]
                self.ssm.put_parameter(Name=name, Value=secrets.token_hex(32), Type="SecureString")
        self.ssm.put_parameter(Name=BUCKET, Value=self.bucket, Type="String", Overwrite=True)

    def _role(self, name: str, rights: list[dict[str, Any]]) -> None:
        """A role of machines with `rights`, and the profile that gives it to an instance."""
        trust = [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]
        if absent(lambda: self.iam.get_role(RoleName=name)):
            self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))
        self.iam.put_role_policy(RoleName=name, PolicyName=NAME, PolicyDocument=document(rights))
        if absent(lambda: self.iam.get_instance_profile(InstanceProfileName=name)):
            self.iam.create_instance_profile(InstanceProfileName=name)
            self.iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)

    def _worker_rights(self) -> list[dict[str, Any]]:
        return [
            allow(["s3:ListBucket", "s3:GetBucketLocation"], f"arn:aws:s3:::{self.bucket}"),
            allow(
                ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
                f"arn:aws:s3:::{self.bucket}/*",
            ),
            allow(["ssm:GetParameter"], f"arn:aws:ssm:{self.region}:{self.number}:parameter/{NAME}/*"),
            allow(["ecr:GetAuthorizationToken"], "*"),
            allow(
                ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"],
                f"arn:aws:ecr:{self.region}:{self.number}:repository/{NAME}",
            ),
        ]

    def _head_rights(self) -> list[dict[str, Any]]:
        """To start workers, and to end those of this cluster only."""
        mine = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": NAME}}
        instances = f"arn:aws:ec2:{self.region}:{self.number}:instance/*"
        return [
            allow(["ec2:Describe*"], "*"),
            allow(["ec2:RunInstances"], "*"),
            allow(["ec2:CreateTags"], instances),
            allow(["ec2:TerminateInstances", "ec2:StopInstances", "ec2:StartInstances"], instances)
            | {"Condition": mine},
            allow(["iam:PassRole"], f"arn:aws:iam::{self.number}:role/{WORKER}"),
        ]


def allow(actions: list[str], resource: str) -> dict[str, Any]:
    """One statement of a policy."""
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


def document(statements: list[dict[str, Any]]) -> str:
    """A policy."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def absent(look: Callable[[], Any]) -> bool:
    """Whether AWS says that what is looked for is not there."""
    try:
        look()
    except ClientError as error:
        if error.response["Error"]["Code"] not in _ABSENT:
            raise
        return True
    return False


@contextmanager
def gone() -> Any:
    """Nothing happens when what is to be removed is not there."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in _ABSENT:
            raise


def removed(remove: Callable[[], Any]) -> bool:
    """Remove what holds nothing; False when it holds something."""
    try:
        with gone():
            remove()
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NOT_EMPTY:
            raise
        return False
    return True


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="cluster/aws_account.py", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--zone", help="availability zone of all nodes; the region's first when not given")
    parser.add_argument("--owner_ip", help="the only address that may open SSH to a node; needed for up")
    parser.add_argument("--machine_image", help="the newest of AWS's Deep Learning Base GPU images when not given")
    given = parser.parse_args(argv)
    account = Account(given.region, given.zone or f"{given.region}a")
    if given.command == "down":
        for kept in account.down():
            print(f"kept, since it is not empty: {kept}")
        return
    if not given.owner_ip:
        parser.error("--owner_ip: needed, so that SSH is open to nobody else")
    values = account.up(given.owner_ip, given.machine_image)
    print(f"# made in account {account.number}; results go to s3://{account.bucket}; for ray_cluster.yaml:")
    for key, value in values.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
