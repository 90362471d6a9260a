"""The options of an inference gateway: an endpoint picker as llm-d and the Gateway API inference extension ship it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput, did_you_mean
from analysis.numbers import parse_seconds, read_number
from autoscale.kube.endpoint_picker import REQUEST_TTL_S, SCORERS
from autoscale.sim.engine.flow_control import DETECTORS
from autoscale.sim.engine.state import NONE

MOST_BANDS = 8

BAND = np.dtype(  # requests of one priority that wait at the gateway, the highest priority first
    [
        ("priority", "i8"),
        (
            "below",
            "f8",
        ),  # a request whose number in 0..1 lies below this, and not below the band before, is of it
        ("head", "i8"),
        ("tail", "i8"),
        ("waiting", "i8"),
        ("running", "i8"),  # sent on and not ended
    ],
    align=True,
)
GATE = np.dtype(  # of an inference gateway: its options, then what it remembers
    [
        ("on", "i8"),
        ("flow_control", "i8"),
        ("detector", "i8"),
        ("queue_depth", "f8"),
        ("kv_usage", "f8"),
        ("capacity", "f8"),
        ("ttl_s", "f8"),
        ("no_endpoint_ttl_s", "f8"),
        ("band_requests", "i8"),
        ("queue_weight", "f8"),
        ("kv_weight", "f8"),
        ("prefix_weight", "f8"),
        ("lru_weight", "f8"),
        ("refresh_s", "f8"),
        ("stale_s", "f8"),
        ("look", "i8"),  # number of the last look at the pods
        ("regime_s", "f8"),  # since when there are pods, or none
        ("uses", "i8"),
        ("most_waiting", "i8"),  # at the gateway
        ("held_s", "f8"),  # time in which requests waited although there were pods
        ("room_s", "f8"),  # the same times the share of pods that had room by themselves
        ("most_on_one", "i8"),  # the most that waited on one pod meanwhile
    ],
    align=True,
)
SEEN = np.dtype(  # what the gateway knows of a slot
    [
        ("fresh", "i8"),  # 0: not looked at since it opened
        ("waiting", "i8"),
        ("kv_usage", "f8"),
        ("warm", "i8"),  # tokens of the longest prefix that was sent there
        ("used", "i8"),  # number of the last request without a known prefix that was sent there
    ],
    align=True,
)


@dataclass(frozen=True)
class InferenceGateway:
    """What holds and routes requests before the replicas; defaults are those of llm-d-router after v0.10.0.

    flow_control       requests wait at the gateway while the pool is saturated; off (llm-d's default) they go straight to
                       the replicas' queues, and only those of a negative priority are refused while it is saturated
    detector           utilization: mean over pods of max(waiting / queue_depth, KV usage / kv_usage); concurrency: requests
                       in flight / (capacity * pods). Requests are held at 1 and above
    ttl_s              how long a request may wait while there are pods, and without any; inf = as long as the client does
    band_requests      most requests that wait per priority
    queue_weight, ...  weights of the scorers; lru is llm-d's no-hit-lru-scorer, 2 in its optimized baseline
    refresh_s          how often the pods' metrics are read; from stale_s on every pod counts as full
    bands              (priority, share of the requests), the shares adding up to 1
    """

    flow_control: bool = True
    detector: str = "utilization"
    queue_depth: float = 5.0
    kv_usage: float = 0.8
    capacity: float = 100.0
    ttl_s: float = REQUEST_TTL_S
    no_endpoint_ttl_s: float | None = None
    band_requests: int = 5000
    queue_weight: float = SCORERS["queue_weight"][1]
    kv_weight: float = SCORERS["kv_weight"][1]
    prefix_weight: float = SCORERS["prefix_weight"][1]
    lru_weight: float = SCORERS["lru_weight"][1]
    refresh_s: float = 0.05
    stale_s: float = 0.2
    bands: tuple[tuple[int, float], ...] = ((0, 1.0),)

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise BadInput(
                "the gateway's detector",
                value=self.detector,
                expected=f"one of {', '.join(DETECTORS)}",
                next_step=did_you_mean(self.detector, DETECTORS),
            )
        above = ("queue_depth", "kv_usage", "capacity", "ttl_s", "no_endpoint_ttl_s", "band_requests")
        for name in (*above, "refresh_s", "stale_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInput(f"the gateway's {name}", value=value, expected="a number above 0")
        if self.refresh_s < 0.05:
            raise BadInput("the gateway's refresh_s", value=self.refresh_s, expected="at least 0.05")
        for name in SCORERS:
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(f"the gateway's {name}", value=getattr(self, name), expected="0 or more")
        shares = [share for _, share in self.bands]
        if not 0 < len(shares) <= MOST_BANDS or min(shares) < 0 or not math.isclose(sum(shares), 1.0):
            raise BadInput("the gateway's bands", value=self.bands, expected="shares that add up to 1")

    @property
    def text(self) -> str:
        """As `parse_gateway` reads it: "on", or the options that are not the defaults; bands have no option."""
        usual = InferenceGateway()
        told = [
            f"{name.removesuffix('_s')}={_option(name, value)}"
            for name in self.__dataclass_fields__
            if name != "bands" and (value := getattr(self, name)) != getattr(usual, name)
        ]
        return ",".join(told) or "on"


def _option(name: str, value: Any) -> str:
    if name == "flow_control":
        return "on" if value else "off"
    if name.endswith("_s"):
        return "0" if math.isinf(value) else f"{value:g}s"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def gate_record(gateway: InferenceGateway | None) -> NDArray[Any]:
    """The record that the kernels read, as an array of one; without a gateway it is off."""
    record = np.zeros(1, GATE)
    if gateway is None:
        return record
    for name in GATE.names or ():
        if name in gateway.__dataclass_fields__:
            value = getattr(gateway, name)
            record[0][name] = gateway.ttl_s if value is None else value if name != "detector" else 0
    record[0]["on"], record[0]["detector"], record[0]["look"] = 1, DETECTORS.index(gateway.detector), -1
    return record


def band_records(gateway: InferenceGateway | None) -> NDArray[Any]:
    """The bands, empty, the highest priority first; without a gateway there is one."""
    given = sorted(gateway.bands if gateway else ((0, 1.0),), reverse=True)
    records = np.zeros(len(given), BAND)
    records["priority"] = [priority for priority, _ in given]
    records["below"] = np.cumsum([share for _, share in given])
    records["head"] = records["tail"] = NONE
    return records


def parse_gateway(text: str) -> InferenceGateway:
    """A gateway from "on", or from options such as `flow_control=off,detector=concurrency,ttl=5m,no_endpoint_ttl=10m`.

    Names are InferenceGateway's, times without their _s; a ttl of 0 never ends. Raises BadInput.
    """
    given: dict[str, Any] = {}
    for part in (part.strip() for part in text.split(",") if part.strip() not in ("", "on")):
        name, _, value = part.partition("=")
        field = next((f for f in InferenceGateway.__dataclass_fields__ if f in (name, f"{name}_s")), None)
        if field is None or field == "bands":
            names = [f.removesuffix("_s") for f in InferenceGateway.__dataclass_fields__ if f != "bands"]
            raise BadInput(
                "--gateway",
                value=part,
                expected=f"on, or NAME=VALUE with {', '.join(names)}",
                next_step=did_you_mean(name, ["on", *names]),
            )
        if field == "flow_control" and value in ("on", "off"):
            given[field] = value == "on"
        elif field == "detector":
            given[field] = value
        elif field.endswith("_s"):
            seconds = parse_seconds(value)
            given[field] = math.inf if seconds == 0 and "ttl" in field else seconds
        else:
            try:
                given[field] = read_number(value)
            except ValueError:
                raise BadInput(f"--gateway {name}", value=value, expected="a number") from None
    return InferenceGateway(**given)
