"""What other programs read: the files of launcher and operator, by schemas that refuse unknown words; the image."""

import copy
import json
import re
import shlex
from collections.abc import Callable
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

Document = dict[str, Any]
# the lines of the cloud's variant
CLOUD = "#: "


def refused(schema: Document, document: Document, change: Callable[[Document], None]) -> bool:
    """Whether a schema refuses a document after a change."""
    changed = copy.deepcopy(document)
    change(changed)
    return not jsonschema.Draft7Validator(schema).is_valid(changed)


def renamed(where: Document, key: str, wrong: str) -> None:
    """Misspell a key."""
    where[wrong] = where.pop(key)


@pytest.fixture(scope="module")
def launcher_schema() -> Document:
    """Ray's own, of the version that is installed."""
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema: Document = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text("utf-8"))
    return schema


@pytest.fixture(scope="module")
def launcher(root: Path) -> Document:
    """The cluster of the machines of one's own."""
    document: Document = yaml.safe_load((root / "runners" / "ray-cluster.yaml").read_text("utf-8"))
    return document


@pytest.fixture(scope="module")
def cloud(root: Path, launcher: Document) -> Document:
    """The cluster of a cloud: its lines in the place of those of the same name."""
    lines = (root / "runners" / "ray-cluster.yaml").read_text("utf-8").splitlines()
    variant = yaml.safe_load("\n".join(line.removeprefix(CLOUD) for line in lines if line.startswith(CLOUD)))
    return {**launcher, **variant}


@pytest.mark.parametrize("which", ["launcher", "cloud"])
def test_ray_takes_the_launchers_file(which: str, launcher_schema: Document, request: pytest.FixtureRequest) -> None:
    document = request.getfixturevalue(which)
    jsonschema.Draft7Validator(launcher_schema).validate(document)
    assert refused(launcher_schema, document, lambda it: renamed(it, "setup_commands", "setup_command"))
    assert refused(launcher_schema, document, lambda it: renamed(it["auth"], "ssh_user", "ssh_users"))
    assert refused(launcher_schema, document, lambda it: it.update(initialization_commands="one"))


def test_a_misspelt_node_type_is_refused(launcher_schema: Document, cloud: Document) -> None:
    def misspelt(it: Document) -> None:
        renamed(it["available_node_types"]["gpu"], "min_workers", "min_worker")

    assert refused(launcher_schema, cloud, misspelt)


def test_the_launchers_head_trains_nothing_and_shows_its_dashboard_to_nobody(launcher: Document) -> None:
    start = shlex.split(launcher["head_start_ray_commands"][-1])
    assert {"--head", "--num-cpus=0", "--num-gpus=0", "--dashboard-host=127.0.0.1"} <= set(start)
    assert any("RAY_AUTH_MODE=token" in line for line in launcher["initialization_commands"])
    assert any(path.endswith("/.ray/auth_token") for path in launcher["file_mounts"])


@pytest.fixture(scope="module")
def operator_schema() -> Document:
    """Of a RayJob; see its title."""
    schema: Document = json.loads(Path(__file__).with_name("rayjob.json").read_text("utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return schema


@pytest.fixture(scope="module")
def manifests(root: Path) -> dict[str, Document]:
    """The documents for Kubernetes by their kind."""
    documents = list(yaml.safe_load_all((root / "runners" / "kuberay.yaml").read_text("utf-8")))
    found = {document["kind"]: document for document in documents}
    assert len(found) == len(documents)
    return found


def cluster_of(job: Document) -> Document:
    cluster: Document = job["spec"]["rayClusterSpec"]
    return cluster


def pods(job: Document) -> list[Document]:
    """What the pods of a RayJob's cluster are: the head's, then each group's."""
    cluster = cluster_of(job)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


MISSPELT: dict[str, Callable[[Document], None]] = {
    "job": lambda job: renamed(job["spec"], "backoffLimit", "backOffLimit"),
    "cluster": lambda job: renamed(cluster_of(job), "authOptions", "authOption"),
    "head": lambda job: renamed(cluster_of(job)["headGroupSpec"], "rayStartParams", "rayStartParameters"),
    "workers": lambda job: renamed(cluster_of(job)["workerGroupSpecs"][0], "minReplicas", "minReplica"),
    "pod": lambda job: renamed(pods(job)[1], "volumes", "volume"),
    "container": lambda job: renamed(pods(job)[0]["containers"][0], "env", "environment"),
    "variable": lambda job: renamed(pods(job)[0]["containers"][0]["env"][1]["valueFrom"], "secretKeyRef", "secretRef"),
    "number for text": lambda job: cluster_of(job)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    "text for number": lambda job: job["spec"].update(backoffLimit="3"),
}


def test_the_operator_takes_the_job(operator_schema: Document, manifests: dict[str, Document]) -> None:
    jsonschema.Draft7Validator(operator_schema).validate(manifests["RayJob"])


@pytest.mark.parametrize("what", MISSPELT)
def test_what_the_operator_would_leave_out_is_refused(
    what: str, operator_schema: Document, manifests: dict[str, Document]
) -> None:
    assert refused(operator_schema, manifests["RayJob"], MISSPELT[what])


def test_every_pod_has_the_volume_and_the_secret_of_the_same_file(manifests: dict[str, Document]) -> None:
    assert set(manifests) == {"Secret", "PersistentVolumeClaim", "RayJob"}
    claim, secret = manifests["PersistentVolumeClaim"], manifests["Secret"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(manifests["RayJob"]):
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        variables = {variable["name"]: variable for variable in container["env"]}
        assert mount["name"] == volume["name"]
        assert variables["D3TUNE_HOME"]["value"] == mount["mountPath"]
        reference = variables["MLFLOW_TRACKING_URI"]["valueFrom"]["secretKeyRef"]
        assert reference["name"] == secret["metadata"]["name"]
        assert reference["key"] in secret["stringData"]


def test_the_operators_head_trains_nothing_and_a_token_admits(manifests: dict[str, Document]) -> None:
    job = manifests["RayJob"]
    cluster = cluster_of(job)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    assert job["spec"]["backoffLimit"] > 0
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["d3tune", "search"]
    assert words[words.index("--address") + 1] == "auto"
    (home,) = {item["value"] for item in pods(job)[0]["containers"][0]["env"] if item["name"] == "D3TUNE_HOME"}
    assert words[words.index("--run-dir") + 1].startswith(f"{home}/")


def test_the_operators_ray_is_the_one_that_is_tested(root: Path, manifests: dict[str, Document]) -> None:
    pinned = re.search(r"^ray==(.+)$", (root / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert pinned is not None
    assert cluster_of(manifests["RayJob"])["rayVersion"] == pinned[1]


@pytest.fixture(scope="module")
def image(root: Path) -> list[list[str]]:
    """The image's instructions as words."""
    text = (root / "runners" / "docker" / "Dockerfile").read_text("utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    return [line.split() for line in lines if line.strip()]


def test_what_the_image_is_made_of_is_there_and_sent(root: Path, image: list[list[str]]) -> None:
    sources = [source for words in image if words[0] == "COPY" for source in words[1:-1]]
    assert {"d3tune", "search_spaces", "pyproject.toml", "constraints.txt"} <= set(sources)
    assert [source for source in sources if not (root / source).exists()] == []
    # in the order of the file the last line that fits counts
    ignored = (root / "runners" / "docker" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    for source in sources:
        fitting = [line for line in ignored if fnmatch(source, line.removeprefix("!")) and not line.startswith("#")]
        assert fitting[-1].startswith("!"), source


def test_the_image_has_both_variants_and_a_user_of_its_own(image: list[list[str]]) -> None:
    assert ["ARG", "VARIANT=cpu"] in image
    assert ["ARG", "PIP_EXTRA_INDEX"] in image
    (install,) = (" ".join(words) for words in image if words[0] == "RUN" and "pip" in words)
    assert "cpu) pinned=/src/constraints.txt" in install
    assert "cuda) " in install
    assert image[-1] == ["ENTRYPOINT", '["d3tune"]']
    users = [words[1] for words in image if words[0] == "USER"]
    assert users == ["d3tune"]
