"""What `deploy/` holds cannot be run here: it is read by the validators of its kinds, and by our own command line."""

import copy
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.laws.test_commands import parses
from tests.laws.tree import ROOT
from workbench.config import ProjectConfig, load_yaml

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.34.0"
# KubeRay's own fields (ray-operator/apis/ray/v1); the pods within are checked by Kubernetes' schemas.
CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs", "autoscalerOptions", "suspend"}
HEAD = {"rayStartParams", "template", "serviceType", "enableIngress"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "numOfHosts"}
JOB = {"entrypoint", "clusterSelector", "ttlSecondsAfterFinished", "backoffLimit"}


def documents(file: Path) -> Iterator[dict[str, Any]]:
    read = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert (read["apiVersion"], read["kind"]) == ("v1", "List")
    yield from read["items"]


def check(document: dict[str, Any]) -> None:
    """Raises kubernetes_validate.ValidationError."""
    if not document["apiVersion"].startswith("ray.io/"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    spec = document["spec"]
    if document["kind"] == "RayJob":
        assert set(spec) <= JOB, set(spec) - JOB
        return
    assert set(spec) <= CLUSTER, set(spec) - CLUSTER
    groups = [(spec["headGroupSpec"], HEAD), *((group, GROUP) for group in spec["workerGroupSpecs"])]
    for group, known in groups:
        assert set(group) <= known, set(group) - known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_are_what_kubernetes_knows_and_their_faults_would_be_found(file: Path) -> None:
    read = list(documents(file))
    assert len({(one["kind"], one["metadata"]["name"]) for one in read}) == len(read)
    for document in read:
        assert document["metadata"]["namespace"] == "workbench"
        check(document)
    for document in [one for one in read if list(pods(one))]:
        broken = copy.deepcopy(document)
        next(pods(broken))["containers"][0]["imagePullPolice"] = "Always"
        with pytest.raises(kubernetes_validate.ValidationError):
            check(broken)


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec below."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


def test_pods_run_without_rights_and_their_names_fit_together() -> None:
    everything = [document for file in MANIFESTS for document in documents(file)]
    labels = {template["metadata"]["labels"]["app"] for one in everything for template in templates(one)}
    for service in [one for one in everything if one["kind"] == "Service"]:
        assert service["spec"]["selector"]["app"] in labels
    clusters = [one["metadata"]["name"] for one in everything if one["kind"] == "RayCluster"]
    jobs = [one["spec"]["clusterSelector"]["ray.io/cluster"] for one in everything if one["kind"] == "RayJob"]
    assert set(jobs) <= set(clusters)
    (policy,) = [one for one in everything if one["kind"] == "NetworkPolicy"]
    assert set(policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0]["values"]) <= labels
    for pod in [pod for one in everything for pod in pods(one)]:
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod.get("volumes", [])} | {"database"}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
            assert container["resources"]["requests"] and container["resources"]["limits"]


def templates(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "template" in node and "spec" in node["template"]:
            yield node["template"]
        for value in node.values():
            yield from templates(value)
    elif isinstance(node, list):
        for value in node:
            yield from templates(value)


def test_the_compose_file_is_what_its_specification_allows(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchek:", 1))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(COMPOSE), str(broken)], capture_output=True, text=True)
    assert str(broken) in done.stdout and f"{COMPOSE}::" not in done.stdout, done.stdout + done.stderr
    read = yaml.safe_load(COMPOSE.read_text())
    for name, service in read["services"].items():
        assert {mount.split(":")[0] for mount in service["volumes"] if mount[0] != "."} <= set(read["volumes"])
        assert set(service.get("depends_on", {})) <= set(read["services"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "healthcheck" in service
    named = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert named <= set(re.findall(r"^(\w+)=", (DEPLOY / ".env.example").read_text(), re.MULTILINE))


def test_every_command_in_them_can_be_typed() -> None:
    """As the containers' entrypoint gets them."""
    spoken = [
        service["command"]
        for service in yaml.safe_load(COMPOSE.read_text())["services"].values()
        if "command" in service
    ]
    for pod in [pod for file in MANIFESTS for document in documents(file) for pod in pods(document)]:
        spoken += [c["args"] for c in pod["containers"] if c["image"].startswith("workbench:") and "args" in c]
    train = [words[words.index("workbench.cli") + 1 :] if "workbench.cli" in words else words for words in spoken]
    assert len(train) >= 7
    for words in train:
        assert parses(shlex.join(["workbench", *words])), words
    entries = [
        document["spec"]["entrypoint"]
        for file in MANIFESTS
        for document in documents(file)
        if document["kind"] == "RayJob"
    ]
    assert [parses(re.sub(r"\$\(.*?\)", "model", entry)) for entry in entries] == [True]


def test_the_container_file_copies_what_there_is_and_runs_without_rights() -> None:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "ARG", "RUN", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {line.split()[0] for line in lines} <= known
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert all((ROOT / name).exists() for names in copied for name in names)
    packages = re.search(r"packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())
    assert packages and {name.strip(' "') for name in packages[1].split(",")} <= {n for names in copied for n in names}
    assert lines[-5].startswith("USER 10001") or any(line == "USER 10001" for line in lines)
    assert all(":latest" not in line and ":" in line for line in lines if line.startswith("FROM"))


def test_the_slurm_script_is_bash_and_the_configuration_is_ours(tmp_path: Path) -> None:
    for script in (DEPLOY / "slurm").iterdir():
        assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
        first = script.read_text().split("set -euo pipefail")[0].splitlines()
        assert first[0] == "#!/bin/bash" and sum(line.startswith("#SBATCH --") for line in first) >= 5
    config = load_yaml(DEPLOY / "workbench.yaml", ProjectConfig)
    (mapped,) = [one for file in MANIFESTS for one in documents(file) if one["kind"] == "ConfigMap"]
    (tmp_path / "workbench.yaml").write_text(mapped["data"]["workbench.yaml"])
    assert load_yaml(tmp_path / "workbench.yaml", ProjectConfig) == config
    assert config.store.startswith("env:") and config.storage is not None and config.storage.startswith("env:")


def test_no_secret_stands_in_them() -> None:
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            found = re.findall(r"(?:PASSWORD|SECRET_ACCESS_KEY)[=:] *(\S+)", file.read_text())
            assert [one for one in found if not one.startswith(("$", "change-me", "AWS", "WORKBENCH"))] == [], file
