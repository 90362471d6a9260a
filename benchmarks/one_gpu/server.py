"""vLLM and a Prometheus beside it, started and stopped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import BadInput
from autoscale.local_servers import free_ports, local_prometheus, running, until_up

MODEL_SCRIPT = Path(__file__).with_name("model.py")
START_S = 600.0  # compiling a model's graphs takes minutes
SCRAPES = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: vllm
    static_configs: [{{targets: ['{target}'], labels: {{pod: 'one'}}}}]
"""


@dataclass(frozen=True)
class Device:
    """What a server of this machine is: the model's size, vLLM's options, the profile it extends, lengths of both mixes."""

    size: str
    options: tuple[str, ...]
    base: str
    lengths: tuple[
        tuple[str, str], tuple[str, str]
    ]  # (prompt, answer) of the measured mix and of the predicted one
    slo: str
    users: int  # of the closed loop that finds where the server is full
    engine: dict[str, object]  # what the server does not tell


CPU = Device(
    "tiny",
    (
        *("--max-model-len", "2048", "--block-size", "32", "--num-gpu-blocks-override", "81"),
        *("--max-num-seqs", "16", "--max-num-batched-tokens", "512", "--enforce-eager"),
        *("--gpu-memory-utilization", "0.2"),  # of the memory: others use the machine too
    ),
    "llama-3.1-8b-1xl4",
    (("uniform:48,96", "uniform:96,160"), ("uniform:96,160", "uniform:48,80")),
    "ttft_p95=1s,tpot_p95=100ms",
    16,
    {"async_scheduling": False},
)
GPU = Device(
    "8b",
    ("--max-model-len", "8192"),
    "llama-3.1-8b-1xh100",
    (("uniform:256,768", "uniform:64,192"), ("uniform:1000,3000", "uniform:25,75")),
    "ttft_p95=2s,tpot_p95=100ms",
    256,
    {},
)


@contextmanager
def vllm(python: Path, device: Device, out: Path) -> Iterator[str]:
    """A vLLM with the device's model on the loopback interface; yields its URL. Its log is vllm.log in `out`."""
    model = write_model(python, device.size, out)
    port = free_ports(1)
    command = vllm_command(python, model, port, device.options)
    with (out / "vllm.log").open("wb") as log, running(command, log) as server:
        until_up(f"http://127.0.0.1:{port}/health", server, START_S, "vLLM", "vllm.log")
        yield f"http://127.0.0.1:{port}"


def write_model(python: Path, size: str, out: Path) -> Path:
    """A folder in `out` with a model that vLLM makes up. Raises BadInput where this Python has no vLLM."""
    model = out / "model"
    try:
        subprocess.run([python, MODEL_SCRIPT, model, size], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise BadInput(
            "this Python makes no model",
            value=str(python),
            expected="one that has vLLM",
            next_step="name it with --python",
        ) from None
    return model


def vllm_command(python: Path, model: Path, port: int | str, options: Sequence[str]) -> list[str]:
    """What starts a vLLM server that serves the model as `random` on the loopback interface, without the network."""
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_HOST_IP="127.0.0.1")
    command = [
        str(python),
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        str(model),
        "--served-model-name",
        "random",
    ]
    command += [
        "--load-format",
        "dummy",
        "--no-enable-prefix-caching",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    return [*command, *options]


@contextmanager
def prometheus(url: str, out: Path) -> Iterator[str]:
    """A Prometheus that scrapes the server every second; yields its URL. Raises SourceUnavailable where none is installed."""
    home = out / "prometheus"
    home.mkdir()
    with local_prometheus(home, SCRAPES.format(target=url.removeprefix("http://")), ()) as address:
        yield address
