"""What is served and offered: vLLM's CPU build with a model without weights, or simulated servers in its place."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoscale.kube.vllm_names import hpa_metric_name
from autoscale.profiles import load
from autoscale.profiles.profile import Profile
from benchmarks.one_gpu.server import vllm_command, write_model

BASE, VERSION = "llama-3.1-8b-1xl4", "0.32.0"
SEATS = 4  # --max-num-seqs: a few requests per second fill them
VLLM_OPTIONS = (
    *("--max-model-len", "1024", "--block-size", "32", "--num-gpu-blocks-override", "65"),
    *("--max-num-seqs", str(SEATS), "--max-num-batched-tokens", "512", "--enforce-eager"),
    *("--gpu-memory-utilization", "0.1"),  # of the memory: others use the machine too
    *("--stream-interval", "8"),  # tokens per event: on few cores streams cost as much as the engine
)
ENGINE = {
    "vllm_version": VERSION,
    "max_num_seqs": SEATS,
    "max_num_batched_tokens": 512,
    "max_model_len": 1024,
    "block_size": 32,
    "kv_tokens": 64 * 32,
}


@dataclass(frozen=True)
class Setting:
    """One trial: what starts a server ({port}, {metrics_port} and {core} are filled in), what it is, and its load."""

    words: tuple[str, ...]
    profile: Profile
    target: str = "3"  # of running requests per replica
    quiet_rps: float = 0.3
    quiet_s: float = 20.0
    watched_s: float = 300.0  # at most, the quiet part included
    scale_in_window_s: int = 30
    lengths: tuple[str, str] = ("uniform:32,64", "uniform:32,64")
    slo: str = "ttft_p95=2s,tpot_p95=100ms"
    simulated: bool = False

    @property
    def hpa(self) -> dict[str, Any]:
        """One replica or two, by running requests."""
        deploy = self.profile.deploy
        name = hpa_metric_name("running", VERSION, "prometheus-adapter")
        metric = {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": self.target}}
        return {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": deploy.hpa_name},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": deploy.kind, "name": deploy.name},
                "minReplicas": 1,
                "maxReplicas": 2,
                "metrics": [{"type": "Pods", "pods": metric}],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": self.scale_in_window_s}},
            },
        }


def vllm_setting(python: Path, out: Path) -> Setting:
    """vLLM's CPU build, each server on a core of its own. Raises BadInput where this Python has no vLLM."""
    model = write_model(python, "small", out)
    command = vllm_command(python, model, "{port}", VLLM_OPTIONS)
    words = ("env", "VLLM_CPU_OMP_THREADS_BIND={core}", *command)
    config = {"id": "random", "config": str((model / "config.json").resolve())}
    return Setting(words, _profile(out, {"model": config, "engine": ENGINE}))


def simulated_setting(out: Path) -> Setting:
    """Simulated servers of as many seats, full at 1.8 requests/s, each a process: what a newcomer has."""
    step = {"base_s": 0.045, "per_sequence_s": 0.0, "per_kv_token_s": 0.0, "per_prefill_token_s": 0.0005}
    profile = _profile(out, {"engine": {**ENGINE, "step": step}})
    served = ("serve", "--profile", str(out / "server.yaml"))
    served += ("--port", "{port}", "--metrics-port", "{metrics_port}")
    return Setting((sys.executable, "-m", "autoscale", *served), profile, simulated=True)


def _profile(out: Path, content: Mapping[str, Any]) -> Profile:
    """The profile of the server, as a file in `out`. The HPA reads what a scrape a second says, a second later."""
    path = {"scrape_interval_s": 1, "ingestion_delay_s": 1}
    whole = {"extends": BASE, "title": "a server of this machine", "metric_path": path, **content}
    file = out / "server.yaml"
    file.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    return load(str(file))
