"""What a user may choose about a manifest set, beyond the profile and the recommendation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from analysis.errors import BadInput, did_you_mean

PLACEHOLDERS = ("PROJECT_ID", "REGION", "ZONE", "CLUSTER_NAME", "BUCKET_NAME", "DISK_NAME")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]*")
_ODD = re.compile(r"[^\w-]")
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~/-]*)?")


@dataclass(frozen=True)
class Options:
    """Every improvement over the tutorials can be switched off; the places are yours to fill in.

    health_probes      /health for start-up, readiness and liveness instead of an open port
    drain              preStop, grace period and --shutdown-timeout from the output length
    ray_timeout        --ray_init_timeout from the spread of node arrivals
    served_model_name  keep the hub's model id when weights are served from a path
    requests           CPU, memory and disk requests beside the accelerator
    behavior           write the recommendation's behavior block
    rollout            replace a replica without needing a spare node
    xla_cache          TPU compile cache: seeded (private copy of a published one), shared (the tutorial's), off
    checker_reads_logs let the checker's account read pod logs, which tell the phases of a start-up apart
    checker_may_scale  let the checker's account write the scale subresource of this workload
    namespace, image   in place of the profile's; empty keeps them
    stage              which objects are applied: weights (the disk is filled first), serving (the rest), all
    longest_output_s   measured duration of the longest generation; None takes the profile's workload
    """

    health_probes: bool = True
    drain: bool = True
    ray_timeout: bool = True
    served_model_name: bool = True
    requests: bool = True
    behavior: bool = True
    rollout: bool = True
    disruption_budget: bool = True
    checker: bool = True
    checker_reads_logs: bool = True
    checker_may_scale: bool = False
    create_namespace: bool = False
    xla_cache: Literal["seeded", "shared", "off"] = "seeded"
    watch_image: str = ""
    stage: Literal["all", "weights", "serving"] = "all"
    longest_output_s: float | None = None
    namespace: str = ""
    image: str = ""
    project: str = "PROJECT_ID"
    region: str = "REGION"
    zone: str = "ZONE"
    cluster: str = "CLUSTER_NAME"
    bucket: str = "BUCKET_NAME"
    disk: str = "DISK_NAME"
    prometheus_url: str = (
        "http://prometheus-operated.monitoring.svc:9090"  # KEDA and prometheus-adapter ask here
    )

    def __post_init__(self) -> None:
        """Raises BadInput for a place that is not a plain name: these words are printed in shell commands."""
        for field in fields(self):
            value = getattr(self, field.name)
            pattern = _URL if field.name == "prometheus_url" else _SAFE
            kept = value == "" and field.default == ""
            if isinstance(value, str) and not kept and not pattern.fullmatch(value):
                raise BadInput(
                    f"option {field.name}", value=value, expected="letters, digits, dots and dashes"
                )
        for name, known in (
            ("xla_cache", ("seeded", "shared", "off")),
            ("stage", ("all", "weights", "serving")),
        ):
            if getattr(self, name) not in known:
                raise BadInput(
                    f"option {name}",
                    value=(value := getattr(self, name)),
                    expected=f"one of {', '.join(known)}",
                    next_step=did_you_mean(value, known),
                )


def options(assignments: Iterable[str]) -> Options:
    """Options from `name=value` texts: yes/no options take true or false, longest_output_s a number of seconds.

    Raises BadInput naming the options there are, or the value that does not fit.
    """
    known = {field.name: field for field in fields(Options)}
    given: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if name not in known:
            meant = did_you_mean(name, known)
            raise BadInput(
                "unknown option of a manifest set",
                value=assignment if meant else _ODD.split(name)[0],  # the rest may be a secret
                expected=f"name=value with name one of {', '.join(known)}",
                next_step=meant,
            )
        if not separator:
            raise BadInput("option of a manifest set without a value", value=name, expected=f"{name}=VALUE")
        default = known[name].default
        if isinstance(default, bool):
            if text.lower() not in ("true", "false"):
                raise BadInput(f"option {name}", value=text, expected="true or false")
            given[name] = text.lower() == "true"
        elif default is None:
            given[name] = _seconds(name, text)
        else:
            given[name] = text
    return Options(**given)


def _seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"option {name}", value=text, expected="a number of seconds") from None
