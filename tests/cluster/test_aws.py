"""`ray up` by Ray's own schema, and what goes to AWS by what botocore knows of its interfaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from cluster_files import CLUSTER
from ray.autoscaler._private.util import prepare_config, validate_config

AWS = CLUSTER / "aws"
POLICIES = sorted(AWS.glob("policy-*.json"))


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def shape_errors(service: str, operation: str, values: dict[str, Any]) -> str:
    """What botocore's validator says of the values of a call."""
    model = botocore.session.get_session().get_service_model(service).operation_model(operation)
    return str(ParamValidator().validate(values, model.input_shape).generate_report())


@pytest.fixture
def config() -> dict[str, Any]:
    return dict(yaml.safe_load((AWS / "ray-up.yaml").read_text(encoding="utf-8")))


def test_ray_takes_the_cluster(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))
    config["available_node_types"]["gpu"]["min_worker"] = 1
    with pytest.raises(Exception, match="min_worker"):
        validate_config(prepare_config(config))


def test_machines_are_what_ec2_can_start(config: dict[str, Any]) -> None:
    for kind in config["available_node_types"].values():
        assert shape_errors("ec2", "RunInstances", {"MinCount": 1, "MaxCount": 1, **kind["node_config"]}) == ""
    assert "Typo" in shape_errors("ec2", "RunInstances", {"MinCount": 1, "MaxCount": 1, "Typo": 1})


def test_the_head_takes_no_work_and_workers_are_spot_machines(config: dict[str, Any]) -> None:
    head, gpu = config["available_node_types"]["head"], config["available_node_types"]["gpu"]
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert any("RAY_AUTH_MODE=token" in option for option in config["docker"]["run_options"])
    assert "--num-cpus=0" in config["head_start_ray_commands"][1]


def test_roles_are_those_of_the_policies(config: dict[str, Any]) -> None:
    passed = next(s for s in load(AWS / "policy-head.json")["Statement"] if s["Action"] == "iam:PassRole")
    worker = config["available_node_types"]["gpu"]["node_config"]
    assert passed["Resource"].endswith(f"role/{worker['IamInstanceProfile']['Name']}")
    started = next(s for s in load(AWS / "policy-head.json")["Statement"] if s["Action"] == "ec2:RunInstances")
    assert started["Condition"]["StringEqualsIfExists"]["ec2:InstanceType"] == worker["InstanceType"]
    tagged = next(s for s in load(AWS / "policy-head.json")["Statement"] if "ec2:TerminateInstances" in s["Action"])
    assert tagged["Condition"]["StringEquals"]["ec2:ResourceTag/ray-cluster-name"] == config["cluster_name"]


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_policies_give_named_rights_and_none_to_delete_images(path: Path) -> None:
    policy = load(path)
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] == "Allow"
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        resources = [statement["Resource"]] if isinstance(statement["Resource"], str) else statement["Resource"]
        assert not [action for action in actions if action.endswith("*") and action != "ec2:Describe*"]
        if {"s3:PutObject", "s3:DeleteObject"} & set(actions):
            assert not [resource for resource in resources if "archive" in resource or resource.endswith(":::plant/*")]
        if "*" in resources:
            assert actions == ["ec2:Describe*"] or "Condition" in statement


def test_the_lifecycle_rule_is_one_that_s3_takes() -> None:
    rules = load(AWS / "lifecycle.json")
    assert shape_errors("s3", "PutBucketLifecycleConfiguration", {"Bucket": "plant", "LifecycleConfiguration": rules}) == ""
    assert rules["Rules"][0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] >= 2  # a run may take longer than a day
