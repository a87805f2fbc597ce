"""The machines of a cluster: each is looked at before it trains, and gets the data that it lacks, once."""

import json
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import d3tune
from d3tune.config import Device
from d3tune.data import parcel
from d3tune.data.prepared import stand_in
from d3tune.errors import D3TuneError, RunError, UsageError, root_cause
from d3tune.search.executor.environment import ray
from d3tune.search.executor.site import Site
from d3tune.yamlfile import read_yaml

# a machine that is busy may take long to start a process; the first one on it imports torch
LOOK_SECONDS = 600.0
RECOUNT_SECONDS = 2.0
POLL_SECONDS = 0.5
TRIES = 3
RUN_FILE = "run.yaml"


class Parcels:
    """Holds datasets for the machines that lack them: in Ray's object store, once a machine."""

    def __init__(self, sites: Sequence[dict[str, Any]]) -> None:
        """Prepare; what is asked for is read."""
        self._folders = {site["dataset_hash"]: Path(site["dataset"]) for site in sites}
        self._kept: dict[str, Any] = {}

    def parcel(self, content_hash: str) -> list[Any]:
        """A reference to a dataset's files; in a list, or Ray would send the files themselves."""
        if content_hash not in self._kept:
            self._kept[content_hash] = ray.put(parcel.pack(self._folders[content_hash]))
        return [self._kept[content_hash]]


class Nodes:
    """The machines of a cluster that this process has joined.

    Attributes:
        order: what a worker is told, see `arrive`.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        """Look at every machine that is there now; those that join later are looked at by their first worker.

        Args:
            sites: of the searches.

        Raises:
            UsageError: one cannot do what is asked for; the message names it by its address.
        """
        plain = [site.to_dict() for site in sites]
        name = f"d3tune-{secrets.token_hex(6)}"
        here = ray.get_runtime_context().get_node_id()
        actor: Any = ray.remote(Parcels)
        self._parcels = actor.options(name=name, num_cpus=0, scheduling_strategy=_on(here)).remote(plain)
        self.order = json.dumps({"sites": plain, "parcels": name, "version": d3tune.__version__})
        self._known, self._lost = set[str](), Counter[str]()
        self._looking = threading.Lock()
        asked = self._ask()
        ready, slow = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_SECONDS) if asked else ([], [])
        faults = [f"{_address(asked[item])}: {fault}" for item in ready if (fault := _fault(item))]
        _refuse(faults + [f"{_address(asked[item])}: no answer within {LOOK_SECONDS:g} s" for item in slow])

    def look_at_new(self, over: Callable[[], bool]) -> None:
        """Look at machines that were not looked at yet; what is lost meanwhile, or does not answer, is no fault.

        One thread at a time looks; another waits for it.

        Args:
            over: whether it is no longer waited for.

        Raises:
            UsageError: one cannot do what is asked for; the message names it by its address.
        """
        while not self._looking.acquire(timeout=POLL_SECONDS):
            if over():
                return
        try:
            asked = self._ask()
            left, end = list(asked), time.monotonic() + LOOK_SECONDS
            while left and time.monotonic() < end and not over():
                ready, left = ray.wait(left, timeout=POLL_SECONDS)
                _refuse([f"{_address(asked[item])}: {fault}" for item in ready if (fault := self._answer(item, asked))])
            # to be asked again
            self._known.difference_update(asked[item]["NodeID"] for item in left)
        finally:
            self._looking.release()

    def _answer(self, reference: Any, asked: dict[Any, dict[str, Any]]) -> str:
        """A machine's refusal; one whose worker was lost is asked again, a few times."""
        try:
            return _refusal(reference)
        except ray.exceptions.RayError:
            node = asked[reference]["NodeID"]
            self._lost[node] += 1
            if self._lost[node] < TRIES:
                self._known.discard(node)
            return ""

    def _ask(self) -> dict[Any, dict[str, Any]]:
        """Ask every machine that was not asked yet; answers by machine."""
        there = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]  # type: ignore[no-untyped-call]
        nodes = [node for node in there if node["NodeID"] not in self._known]
        self._known.update(node["NodeID"] for node in nodes)
        look: Any = ray.remote(num_cpus=0, max_retries=0)(looked_at)
        return {look.options(scheduling_strategy=_on(node["NodeID"])).remote(self.order): node for node in nodes}


@lru_cache(maxsize=4)
def arrive(order: str, *, verify: bool = False) -> None:
    """Make sure, on the machine that calls it, that what a search needs is there; data that is not is fetched.

    Args:
        order: of `Nodes`.
        verify: whether all of the data that is there is read and compared with its hash, not only what is quick.

    Raises:
        D3TuneError: something is missing or another.
    """
    told = json.loads(order)
    installed, searching = d3tune.__version__, told["version"]
    if installed != searching:
        raise RunError(f"d3tune {installed} is installed there, {searching} is searching")
    for site in told["sites"]:
        _refuse_unshared(Site(**site))
    for dataset, content_hash in dict.fromkeys((site["dataset"], site["dataset_hash"]) for site in told["sites"]):
        _bring_data(Path(dataset), content_hash, told["parcels"], verify)


def looked_at(order: str) -> None:
    """`arrive`, once on each machine that is there when a search begins."""
    arrive(order, verify=True)


def arrived(order: str, device: Device) -> None:
    """`arrive`, in a worker: its fault names the machine.

    Args:
        order: of `Nodes`.
        device: what is trained on; a GPU that Ray counts and torch does not see would be a CPU that nobody notices.

    Raises:
        RunError: see `arrive`.
    """
    try:
        arrive(order)
        if device == "cuda" and not torch.cuda.is_available():
            raise RunError("Ray counts a GPU, and torch sees none; mend that, or take the node out of the cluster")
    except D3TuneError as error:
        raise RunError(f"node {_own_address()}: {error}") from None


def _refuse_unshared(site: Site) -> None:
    if not site.folder:
        return
    path = Path(site.folder) / RUN_FILE
    try:
        uid = read_yaml(path).get("uid")
    except UsageError:
        uid = None
    if uid != site.uid:
        raise RunError(
            f"it does not see the run directory {site.folder}; give a --run-dir, or D3TUNE_HOME, on storage that all "
            "nodes share"
        )


def _bring_data(path: Path, content_hash: str, parcels: str, verify: bool) -> None:
    folder = parcel.here(path, content_hash, verify=verify)
    if folder is None:
        folder = parcel.received(_sent(parcels, content_hash), path, content_hash)
    if folder != path:
        stand_in(path, folder)


def _sent(parcels: str, content_hash: str) -> Any:
    try:
        actor: Any = ray.get_actor(parcels)
        references: list[Any] = ray.get(actor.parcel.remote(content_hash))
        return ray.get(references[0])
    except (ValueError, ray.exceptions.RayError) as error:
        # no fault of the trial's, which would count as failed
        raise RunError(f"it lacks the dataset and was not sent it: {root_cause(error)}") from None


def _own_address() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _address(node: dict[str, Any]) -> str:
    return str(node["NodeManagerAddress"])


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UsageError(f"node {faults[0]}{more}; mend that, or take the node out of the cluster")


def _fault(reference: Any) -> str:
    """Why a machine cannot train; empty where it can."""
    try:
        return _refusal(reference)
    except ray.exceptions.RayError as error:
        return root_cause(error)


def _refusal(reference: Any) -> str:
    """What a machine itself says against training there; empty where it says nothing.

    Raises:
        ray.exceptions.RayError: it was lost.
    """
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # without d3tune it cannot even read what it is asked
        return str(error.cause) if isinstance(error.cause, D3TuneError) else _first(str(error).splitlines())
    return ""


def _first(lines: Iterable[str]) -> str:
    """The line of a remote traceback that says what happened: its last."""
    return ([line.strip() for line in lines if line.strip()] or ["it failed"])[-1][:200]


def recounted(count: Callable[[], int], limit: int | None) -> Callable[[], int]:
    """How many trials a cluster has places for, counted again every few seconds: nodes are lost, and join.

    Args:
        count: places on the nodes that are there now.
        limit: never more; None for no limit.
    """
    counted = [-math.inf, 0.0]

    def places() -> int:
        if time.monotonic() > counted[0] + RECOUNT_SECONDS:
            counted[:] = time.monotonic(), count()
        return int(counted[1]) if limit is None else min(int(counted[1]), limit)

    return places
