"""The manifests as kustomize builds them: each field is one that Kubernetes or KubeRay has, and they fit together."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from cluster_files import CLUSTER, OVERLAYS, ROOT, Manifest, built, kubectl, locked, pod_templates, ran
from kuberay_fields import KINDS
from ray.serve.schema import ServeDeploySchema

from differnet_ray.cli import main
from differnet_ray.limits import AlarmLimits

KUBERNETES = "1.33"  # the oldest that is still kept up, and the newest that kubernetes-validate knows
VERSIONS = (KUBERNETES, ".".join(kubernetes_validate.latest_version().split(".")[:2]))
RAYS = ("RayCluster", "RayJob", "RayService")
SECRETS = {"differnet-ray-token": "auth_token", "differnet-serve-tokens": "tokens"}  # made by hand: README.md
overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def named(overlay: str, kind: str, name: str) -> Manifest:
    return next(m for m in built(overlay) if m["kind"] == kind and m["metadata"]["name"] == name)


def cluster_specs(overlay: str) -> list[Manifest]:
    """The specs of Ray clusters in an overlay."""
    specs = []
    for manifest in built(overlay):
        if manifest["kind"] in RAYS:
            spec = manifest["spec"]
            specs.append(spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec)
    return specs


@pytest.mark.parametrize("version", VERSIONS)
@overlays
def test_fields_of_kubernetes_are_its_own(overlay: str, version: str) -> None:
    seen = set()
    for manifest in built(overlay):
        if manifest["kind"] not in RAYS:
            kubernetes_validate.validate(manifest, version, strict=True)
        for template in pod_templates(manifest):
            as_kind = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pods"}, "template": template}
            kubernetes_validate.validate(as_kind, version, strict=True)
        seen.add(manifest["kind"])
    assert seen >= {"CronJob", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount", "ConfigMap", "Namespace", *RAYS}


@overlays
def test_fields_of_kuberay_are_its_own(overlay: str) -> None:
    for manifest in built(overlay):
        if manifest["kind"] in RAYS:
            assert manifest["apiVersion"] == "ray.io/v1"
            jsonschema.validate(manifest, KINDS[manifest["kind"]])
    for spec in cluster_specs(overlay):
        container = {key: spec["autoscalerOptions"][key] for key in ("resources", "securityContext")} | {"name": "autoscaler"}
        template = {"spec": {"containers": [container]}}
        as_kind = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pods"}, "template": template}
        kubernetes_validate.validate(as_kind, KUBERNETES, strict=True)


@pytest.mark.parametrize("component", ["gcs-fault-tolerance", "kueue"])
def test_what_is_optional_builds_and_is_valid(component: str, tmp_path: Path) -> None:
    shutil.copytree(CLUSTER / "kubernetes", tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "gpu"
    file = overlay / "kustomization.yaml"
    text = file.read_text(encoding="utf-8")
    assert f"# - ../../components/{component}\n" in text
    file.write_text(text.replace(f"# - ../../components/{component}\n", f"- ../../components/{component}\n"), encoding="utf-8")
    manifests = list(yaml.safe_load_all(ran(kubectl(), "kustomize", str(overlay))))
    changed = [m for m in manifests if m not in built("gpu")]
    assert {m["kind"] for m in changed} == {"gcs-fault-tolerance": {"RayService"}, "kueue": {"RayJob"}}[component]
    for manifest in changed:
        jsonschema.validate(manifest, KINDS[manifest["kind"]])


@overlays
def test_jobs_get_the_cluster_of_the_overlay(overlay: str) -> None:
    spec = named(overlay, "RayCluster", "differnet")["spec"]
    assert named(overlay, "RayJob", "differnet-fit")["spec"]["rayClusterSpec"] == spec
    assert named(overlay, "RayJob", "differnet-score")["spec"]["rayClusterSpec"] == spec


@overlays
def test_names_are_unique_and_short_enough_for_what_kuberay_makes_of_them(overlay: str) -> None:
    names = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in built(overlay)]
    assert len(names) == len(set(names))
    assert all(len(name) <= 47 for kind, _, name in names if kind in RAYS)  # KubeRay's limit: it adds to them
    rays = [name for kind, _, name in names if kind in ("RayCluster", "RayService")]
    assert len(rays) == len(set(rays)), "the services of their heads would have one name"
    assert {namespace for _, namespace, _ in names} == {"differnet", None}


@overlays
def test_pods_have_no_more_rights_than_restricted_ones(overlay: str) -> None:
    pods = [template["spec"] for manifest in built(overlay) for template in pod_templates(manifest)]
    contexts = [
        (pod.get("securityContext", {}), container["securityContext"]) for pod in pods for container in pod["containers"]
    ]
    contexts += [({"runAsUser": 1000}, spec["autoscalerOptions"]["securityContext"]) for spec in cluster_specs(overlay)]
    assert len(contexts) >= 10
    for of_pod, of_container in contexts:
        assert of_pod["runAsUser"] > 0
        assert of_container["runAsNonRoot"]
        assert not of_container["allowPrivilegeEscalation"]
        assert of_container["capabilities"] == {"drop": ["ALL"]}
        assert of_container["seccompProfile"] == {"type": "RuntimeDefault"}
    for pod in pods:
        kinds = {key for volume in pod.get("volumes", []) for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "configMap", "secret"}


@overlays
def test_pods_say_what_they_need_and_memory_is_not_promised_twice(overlay: str) -> None:
    for manifest in built(overlay):
        for template in pod_templates(manifest):
            for container in template["spec"]["containers"]:
                requests, limits = container["resources"]["requests"], container["resources"]["limits"]
                assert "cpu" in requests
                if template["metadata"]["labels"].get("app.kubernetes.io/component"):
                    assert requests["memory"] == limits["memory"]
                assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")


def test_all_of_dev_fits_on_the_node_that_it_names() -> None:
    units = {"m": 1e-3, "Gi": 2.0**30, "Mi": 2.0**20, "": 1.0}

    def number(quantity: str) -> float:
        digits = re.match(r"[\d.]+", str(quantity)).group()  # type: ignore[union-attr]
        return float(digits) * units[str(quantity).removeprefix(digits)]

    asked = []
    for manifest in built("dev"):
        if manifest["kind"] in ("RayCluster", "RayService", "Deployment"):
            asked += [c["resources"]["requests"] for t in pod_templates(manifest) for c in t["spec"]["containers"]]
        if manifest["kind"] in ("RayCluster", "RayService"):
            spec = manifest["spec"].get("rayClusterConfig", manifest["spec"])
            asked.append(spec["autoscalerOptions"]["resources"]["requests"])
            assert [group["maxReplicas"] for group in spec["workerGroupSpecs"]] == [1]
    text = (CLUSTER / "kubernetes" / "overlays" / "dev" / "kustomization.yaml").read_text(encoding="utf-8")
    cores, memory = map(int, re.findall(r"(\d+) cores and (\d+) GiB", text)[0])
    assert sum(number(requests["cpu"]) for requests in asked) + 1 <= cores  # and one for Kubernetes
    assert sum(number(requests["memory"]) for requests in asked) / 2**30 + 2 <= memory


@overlays
def test_heads_take_no_work_and_all_need_the_token(overlay: str) -> None:
    assert len(cluster_specs(overlay)) == 4
    for spec in cluster_specs(overlay):
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert spec["authOptions"] == {"mode": "token", "secretName": "differnet-ray-token"}
        assert spec["rayVersion"] == locked("ray")
        for group in spec["workerGroupSpecs"]:
            assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@overlays
def test_what_pods_refer_to_is_there(overlay: str) -> None:
    there: dict[str, dict[str, Any]] = {"ConfigMap": {}, "Secret": {}, "ServiceAccount": {}}
    for manifest in built(overlay):
        if manifest["kind"] in there:
            keys = {**manifest.get("data", {}), **manifest.get("stringData", {})}
            there[manifest["kind"]][manifest["metadata"]["name"]] = keys
    if overlay != "dev":
        assert there["Secret"] == {}, "secrets do not lie in files"
        there["Secret"] = {name: {key: ""} for name, key in SECRETS.items()}
    for manifest in built(overlay):
        for template in pod_templates(manifest):
            spec = template["spec"]
            assert spec.get("serviceAccountName", "default") in {*there["ServiceAccount"], "default"}
            volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
            for volume in volumes.values():
                assert volume.get("configMap", {}).get("name", "differnet-jobs") in there["ConfigMap"]
                if "secret" in volume:
                    keys = there["Secret"][volume["secret"]["secretName"]]
                    assert {item["key"] for item in volume["secret"]["items"]} <= set(keys)
            for container in spec["containers"]:
                assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes)
                for source in container.get("envFrom", []):
                    kind = "ConfigMap" if "configMapRef" in source else "Secret"
                    assert next(iter(source.values()))["name"] in there[kind]
                for variable in container.get("env", []):
                    if "valueFrom" in variable:
                        key = variable["valueFrom"]["secretKeyRef"]
                        assert key["key"] in there["Secret"][key["name"]]


@overlays
def test_policies_and_budgets_choose_pods_that_there_are(overlay: str) -> None:
    labels = [t["metadata"]["labels"] for m in built(overlay) for t in pod_templates(m)]
    of_kuberay = {"ray.io/cluster", "ray.io/node-type"}  # which KubeRay puts on its pods
    for manifest in built(overlay):
        if manifest["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            spec = manifest["spec"]
            chosen = (spec.get("podSelector") or spec.get("selector") or {}).get("matchLabels", {})
            ours = {key: value for key, value in chosen.items() if key not in of_kuberay}
            assert any(ours.items() <= has.items() for has in labels), manifest["metadata"]["name"]
        if manifest["kind"] == "PodDisruptionBudget":
            assert isinstance(manifest["spec"]["minAvailable"], int)  # all that Kubernetes takes for pods that it cannot scale


def test_the_audit_comes_once_at_a_time_and_ends() -> None:
    spec = named("gpu", "CronJob", "differnet-audit")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 86400
    container = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["RAY_ADDRESS"] == f"http://{named('gpu', 'RayCluster', 'differnet')['metadata']['name']}-head-svc:8265"
    first = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]
    assert first["onExitCodes"]["containerName"] == container["name"]


def test_the_endpoint_is_that_of_jobs() -> None:
    service = named("gpu", "RayService", "differnet-online")["spec"]
    config = yaml.safe_load(service["serveConfigV2"])
    assert config == yaml.safe_load((ROOT / "jobs" / "serve.yaml").read_text(encoding="utf-8"))
    application = ServeDeploySchema.model_validate(config).applications[0]
    mount = service["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["volumeMounts"][-1]
    assert application.args["token_file"] == f"{mount['mountPath']}/tokens"
    worker = service["rayClusterConfig"]["workerGroupSpecs"][0]
    assert application.args["plan"]["replicas"][1] <= worker["maxReplicas"]
    assert int(worker["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]) >= application.args["plan"]["cpus"]


@overlays
def test_what_jobs_start_is_a_command_with_a_configuration_that_it_takes(overlay: str, tmp_path: Path) -> None:
    files = named(overlay, "ConfigMap", "differnet-jobs")["data"]
    commands = [named(overlay, "RayJob", name)["spec"]["entrypoint"] for name in ("differnet-fit", "differnet-score")]
    container = named(overlay, "CronJob", "differnet-audit")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    commands.append(shlex.join(container["command"]))
    started = set()
    for command in commands:
        words = shlex.split(command)
        if words[0] == "bash":
            script = files[words[1].removeprefix("/etc/differnet/")]
            words = shlex.split(next(line for line in script.splitlines() if line.startswith("differnet-ray")).split("||")[0])
        verb = words[2] if words[1] == "submit" else words[1]
        config = tmp_path / words[words.index("--config") + 1].removeprefix("/etc/differnet/")
        config.write_text(files[config.name], encoding="utf-8")
        asked = CliRunner().invoke(main, [verb, "--config", str(config), "--help"])  # reads the file first
        assert asked.exit_code == 0, asked.output
        started.add(verb)
    AlarmLimits.from_dict(tomllib.loads(files["limits.toml"]))
    assert started == {"fit", "score", "audit"}
