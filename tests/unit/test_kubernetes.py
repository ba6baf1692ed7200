"""The manifest in examples/kubernetes is one that Kubernetes takes, and its commands are ours."""

import copy
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kdbench.arguments import parse

MANIFEST = Path(__file__).parents[2] / "examples" / "kubernetes" / "job.yaml"
VERSIONS = ("1.31", "1.34", "1.37")


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))


def jobs() -> dict[str, dict[str, Any]]:
    found = {d["metadata"]["name"]: d["spec"] for d in documents() if d["kind"] == "Job"}
    assert found.keys() == {"kdbench-search", "kdbench-workers"}
    return found


def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = job["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifest_follows_the_schema_of_kubernetes(version: str) -> None:
    for document in documents():
        kubernetes_validate.validate(copy.deepcopy(document), version, strict=True)


@pytest.mark.parametrize(
    "path", [["completionsMode"], ["template", "spec", "restartPolicies"], ["completions"]]
)
def test_the_schema_would_see_a_mistake(path: list[str]) -> None:
    (workers,) = [d for d in documents() if d["metadata"]["name"] == "kdbench-workers"]
    node = workers["spec"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = "many"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(workers, VERSIONS[-1], strict=True)


def test_its_commands_are_kdbench_commands() -> None:
    search, worker = (container(job) for job in jobs().values())
    assert search["command"] == ["kdbench"]
    begun = parse(search["args"])
    assert worker["command"] == ["sh", "-c"]
    (line,) = worker["args"]
    words = shlex.split(line.replace("$((JOB_COMPLETION_INDEX + 1))", "4").replace("$STUDY", "s"))
    assert words[:2] == ["exec", "kdbench"]
    joined = parse(words[2:])
    assert (joined.command, joined.index) == ("worker", 4)
    assert (begun.command, begun.root) == ("search", joined.root)
    (study,) = [each["value"] for each in worker["env"] if each["name"] == "STUDY"]
    assert begun.study == study


def test_every_worker_has_a_number_a_place_for_results_and_the_secret_url() -> None:
    found = jobs()
    assert found["kdbench-workers"]["completionMode"] == "Indexed"
    for job in found.values():
        only = container(job)
        (url,) = [each for each in only["env"] if each["name"] == "KDBENCH_STORAGE"]
        assert url["valueFrom"]["secretKeyRef"]["name"] == "kdbench-database"
        assert [mount["mountPath"] for mount in only["volumeMounts"]] == ["/runs"]
        assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert "://" not in "".join(map(str, documents()))
