"""Rules on memory: the weights of a model against that of its accelerators, where both are known."""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoscale.kube.objects import items, mapping
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding
from autoscale.lint.parts import VllmServer
from autoscale.lint.rules.time import weight_bytes

# GB of one chip, by words of the labels that choose a node; makers' data sheets. A label that says its own comes first.
CHIP_GB = {
    "gb300": 288, "b300": 288, "gb200": 192, "b200": 192, "h200": 141, "gh200": 144, "h100": 80, "h20": 96, "h800": 80,
    "a100": 40, "a800": 80, "l40s": 48, "l40": 48, "a40": 48, "a10g": 24, "a10": 24, "a6000": 48, "l4": 24, "t4": 16,
    "v100": 16, "p100": 16, "rtx-pro-6000": 96, "mi300x": 192, "mi325x": 256, "mi355x": 288,
    "tpu-v6e-slice": 32, "tpu-v5-lite-podslice": 16, "tpu-v5-lite-device": 16, "tpu-v5p-slice": 95,
    "tpu-v4-podslice": 32, "tpu7x": 192,
}  # fmt: skip
LABELS = re.compile(
    r"cloud.google.com/gke-(accelerator|tpu-accelerator)|nvidia.com/gpu.(product|memory)|accelerator|gpu.*(type|product|model)"
    r"|karpenter.k8s.aws/instance-gpu-name"
)
UTILIZATION = 0.92  # the highest default of --gpu-memory-utilization; older versions have 0.9


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every server whose model and accelerator are known."""
    for server in facts.servers:
        yield from _fits(server)


def chip_gb(server: VllmServer) -> int | None:
    """GB of memory of one accelerator, by what the pod selects; the largest of several, None when nothing tells."""
    chosen = [(key, [value]) for key, value in mapping(server.template.spec.get("nodeSelector")).items()]
    affinity = mapping(mapping(server.template.spec.get("affinity")).get("nodeAffinity"))
    required = mapping(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    for term in map(mapping, items(required.get("nodeSelectorTerms"))):
        for expression in map(mapping, items(term.get("matchExpressions"))):
            if expression.get("operator") == "In":
                chosen.append((str(expression.get("key")), items(expression.get("values"))))
    for key, values in chosen:
        sizes = [_named_gb(str(value).lower()) for value in values]
        if LABELS.fullmatch(str(key)) and sizes and None not in sizes:
            return max(size for size in sizes if size is not None)
    return None


def _named_gb(name: str) -> int | None:
    if found := re.search(r"(\d+)[ -]?gb\b", name):
        return int(found[1])
    words = re.split(r"[^a-z0-9]+", name)
    return next(
        (size for word, size in CHIP_GB.items() if word in words or word in name.split("/")[-1:]), None
    )


def _fits(server: VllmServer) -> Iterator[Finding]:
    known, chip = weight_bytes(server), chip_gb(server)
    if known is None or chip is None or "cpu-offload-gb" in server.flags:
        return
    weights_gb, how = known[0] / 1e9, known[1]
    shards = (server.number("tensor-parallel-size") or 1) * (server.number("pipeline-parallel-size") or 1)
    if "enable-expert-parallel" in server.flags:
        shards *= server.engines
    given = server.flags.get("gpu-memory-utilization", "")
    share = float(given) if re.fullmatch(r"0?\.\d+|1(\.0*)?", given) else UTILIZATION
    if weights_gb > shards * chip * share:
        yield server.owner.finding(
            "error",
            "model-does-not-fit",
            server.path,
            f"Weights of {weights_gb:.0f} GB ({how}) on {shards} x {chip} GB x {share:g} = "
            f"{shards * chip * share:.0f} GB.",
            "vLLM runs out of memory while it loads: no replica ever serves.",
            "Use more chips with --tensor-parallel-size, larger ones, or quantized weights.",
        )
