"""The door to the cluster: one Protocol, two sides of it (live Kubernetes and the simulated fleet).

Whoever watches a cluster sees a stream of observations: Kubernetes-shaped objects with the time at which they were
received. The live side takes them from list and watch calls, the simulated fleet emits the same shapes over HTTP, a
recording is a file of them. Everything that judges (`autoscale.check`) is a pure function of such a stream.
"""

from __future__ import annotations

import builtins
import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from analysis.errors import BadRun, SourceUnavailable
from analysis.files import json_value
from analysis.sound import LATEST_S
from autoscale.kube.objects import Object, mapping
from autoscale.kube.scaler import ScalerMetric


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing seen.

    time_s    unix seconds when it was received, on the observer's clock
    resource  plural resource name (horizontalpodautoscalers, deployments, leaderworkersets, statefulsets, replicasets,
              pods, nodes, events), or one of the observer's own:
              `custommetrics`  what a metrics API answered: metric, labelSelector, values {pod: quantity}, or values
                               null with answer (HTTP status) and message; `type` says External or Object where it is
                               no Pods metric, and values are then {"": quantity}, of several series {"0": ..., "1": ...}
              `gap`            what was not seen: resource, from_s, to_s (null while it lasts), lost (false: only
                               late), reason, and status where the API server refused (403, 404)
              `clock`          offset_s = observer's clock minus API server's, with low_s and high_s
              `logs`           lines of one container that tell a start-up phase: pod, lines [{time, text}]
    type      ADDED, MODIFIED, DELETED as in a watch; QUERY for custommetrics; MISSED for gap; MEASURED for clock;
              READ for logs
    object    the object as the API server sent it (managedFields and other bulk dropped)
    """

    time_s: float
    resource: str
    type: str
    object: Object

    def as_dict(self) -> dict[str, Any]:
        """The line that an evidence file holds."""
        return {"time_s": self.time_s, "resource": self.resource, "type": self.type, "object": self.object}


class ClusterError(SourceUnavailable):
    """A cluster, or one of its APIs, did not answer; `status` is the HTTP status, None when there was no answer.

    For a metrics API the status tells the cause apart: 404 with `absent` set, no such API is registered; 404,
    no such metric; 503, registered but its server is down; 403, not allowed.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        absent: bool = False,
        message: str = "",
        retry_after_s: float | None = None,
        next_step: str | None = None,
    ) -> None:
        super().__init__(what, next_step=next_step)
        self.status, self.absent = status, absent
        self.message = message  # the server's own words
        self.retry_after_s = retry_after_s  # how long the server asks to wait, in s


class Cluster(Protocol):
    """What preflight and the scale-out check need from a cluster, live or simulated."""

    tells_queries: bool  # whether `observe` itself tells what the HPA asked the metrics APIs
    simulated: bool  # whether its servers are

    def now_s(self) -> float:
        """The clock of its observations, unix s; a fleet with a compressed control plane has one of its own."""
        ...

    def list(self, resource: str, namespace: str | None = None, selector: str = "") -> list[Object]:
        """Current objects of one resource. Raises ClusterError; forbidden has status 403, an unknown resource 404."""
        ...

    def observe(self, resources: builtins.list[str], namespace: str, stop: Event) -> Iterator[Observation]:
        """List, then watch the resources until `stop` is set; survives expired versions and dropped connections."""
        ...

    def custom_metric(self, namespace: str, metric: str, selector: str) -> dict[str, int]:
        """Pod name -> value in milli-units, as the custom metrics API answers an HPA. Raises ClusterError."""
        ...

    def single_metric(self, namespace: str, metric: ScalerMetric) -> builtins.list[int]:
        """Values in milli-units of an External metric's series, or an Object metric's one, as an HPA reads them.

        Raises ClusterError.
        """
        ...

    def scale(self, hpa: Object, replicas: int) -> None:
        """Write the scale subresource of the HPA's target: the only call that changes anything."""
        ...


# --- small readings of Kubernetes objects, shared by both sides and the judge ----------------------------------------


def timestamp_s(text: str | None) -> float | None:
    """Unix seconds of an RFC 3339 time as Kubernetes writes it ("2026-11-20T17:30:13Z", with or without fraction)."""
    if not text:
        return None
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def stamp_or_none(text: object) -> float | None:
    """The same, None for what is no time."""
    try:
        return timestamp_s(text) if isinstance(text, str) else None
    except (ValueError, OverflowError):
        return None


def utc_text(time_s: float) -> str:
    """Unix seconds as a time of day in UTC, 17:30:13Z; "?" for NaN."""
    return "?" if math.isnan(time_s) else f"{datetime.fromtimestamp(time_s, UTC):%H:%M:%S}Z"


_BULK = ("managedFields", "kubectl.kubernetes.io/last-applied-configuration")


def slim(resource: str, found: Object) -> Object:
    """The object without what no judgement needs: managedFields, the last applied text, a node's image list."""
    metadata = {key: value for key, value in mapping(found.get("metadata")).items() if key != _BULK[0]}
    if annotations := mapping(metadata.get("annotations")):
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != _BULK[1]}
    kept = {**found, "metadata": metadata}
    if resource == "nodes" and "images" in mapping(found.get("status")):
        kept["status"] = {key: value for key, value in found["status"].items() if key != "images"}
    return kept


# vLLM's own words -> the phase that ends with them (the first line counts)
_LOG_ENDS = (
    ("Loading weights took", "weights"),
    ("Model loading took", "weights"),
    ("torch.compile takes", "compile"),
    ("Graph capturing finished", "compile"),
    ("init engine (profile, create kv cache, warmup model) took", "engine_start"),
    ("Application startup complete", "engine_start"),
)


def log_phase(text: str) -> str | None:
    """The start-up phase (weights, compile, engine_start) whose end a vLLM log line tells, or None."""
    return next((phase for words, phase in _LOG_ENDS if words in text), None)


# What reading an object raises that is not of the shape of its kind
MISSHAPEN = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)


def misshapen(seen: Observation, error: Exception) -> BadRun:
    """The error for an object that could not be read, from what reading it raised (MISSHAPEN)."""
    return BadRun(
        f"what was seen as {seen.resource} at {seen.time_s:.3f} is not of that shape",
        value=repr(error),
        expected="an object as an API server gives it",
    )


def read_observations(file: Path | str) -> Iterator[Observation]:
    """The observations of an evidence file (JSON lines, gzipped or not), in file order.

    A line's time is `time_s` (unix seconds) or `ts` (RFC 3339). A file that was cut off while it was written yields
    everything before the cut. Raises BadRun when it cannot be opened or a line is not an observation.
    """
    file = Path(file)
    if file.exists() and not file.is_file():
        raise BadRun(f"the observations {file} are no file", expected="what a check wrote")
    try:
        with (
            gzip.open(file, "rt", encoding="utf-8")
            if file.suffix == ".gz"
            else open(file, encoding="utf-8") as lines
        ):
            torn: BadRun | None = None
            for number, line in enumerate(lines, start=1):
                if torn:
                    raise torn
                try:
                    yield read_observation(line, f"{file}, line {number}")[0]
                except BadRun as error:
                    torn = error  # the last line may be half written, no other
    except EOFError:
        return  # the writer was killed: a gzip stream without its end
    except (OSError, zlib.error, UnicodeDecodeError) as error:
        raise BadRun(f"cannot read the observations {file}: {error}") from None


def read_observation(line: str | bytes, where: str) -> tuple[Observation, dict[str, Any]]:
    """The observation of one line of JSON, and all that the line holds. Raises BadRun, naming `where` it stands."""
    try:
        row = json_value(line)
        time_s: Any = row["time_s"] if "time_s" in row else timestamp_s(row["ts"])
        found = Observation(float(time_s), row["resource"], row["type"], row["object"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadRun(f"{where} is not an observation: {error!r}") from None
    texts = isinstance(found.resource, str) and isinstance(found.type, str)
    if not (texts and isinstance(found.object, dict) and abs(found.time_s) < LATEST_S):
        raise BadRun(
            f"{where} is not an observation",
            expected="time_s in unix seconds, resource and type as text, and an object",
        )
    return found, row
