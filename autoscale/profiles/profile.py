"""A profile: everything about one served system that is known before it is measured.

Model, accelerator, replica shape, engine limits, step-time prior, cold start, metric path, default workload and how it
is deployed. Profiles are YAML files beside this module, or the user's own; `extends: NAME` takes another profile as the
base and overrides keys. Numbers carry their sources as comments in the YAML; what nobody measured is named in
`predictions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from analysis.errors import BadInput
from analysis.redact import redacted
from autoscale.kube.vllm_names import MetricsPath
from autoscale.profiles.content import merged, profile_content
from autoscale.profiles.model_config import KvDtype
from autoscale.profiles.values import Count, NotNegative, Number, Positive, Share, without_control_characters


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    _shown = field_validator("*", mode="before")(without_control_characters)


class Model(_Section):
    """The served model. Bytes are bytes; `active_params` differs from `params` for mixture-of-experts models."""

    id: str
    params: Positive
    active_params: Positive | None = None
    layers: Count
    hidden: Count
    weight_bytes: Positive
    weight_dtype: Literal["bf16", "fp8"] = "bf16"
    kv_bytes_per_token: Positive
    kv_dtype: KvDtype = "bf16"  # fp8 is passed to vLLM as --kv-cache-dtype
    kv_heads: Count | None = None  # None: a latent that every tensor-parallel rank holds whole (MLA)
    embedding_rows: Count | None = (
        None  # of an input embedding that is looked up, not read; None: tied to the head, or not known
    )
    expert_share: Share | None = None  # experts per token / experts; None: active_params / params
    attention_width: Count | None = None  # attention heads x values of one; None: hidden


class Accelerator(_Section):
    """One chip: bandwidth in bytes/s, dense FLOP/s by weight type, memory visible to the engine in GiB."""

    name: str
    bandwidth_bytes_s: Positive
    flops_s: dict[str, Positive]
    visible_gib: Positive
    link_bytes_s: Positive = 450e9  # to the other chips of a tensor-parallel group, one direction
    usable_cap_gib: Positive | None = (
        None  # runtimes that reserve more than gpu_memory_utilization says (TPU)
    )
    price_per_chip_hour: NotNegative | None = None  # user input; None prints accelerator-hours only


class Replica(_Section):
    """What one HPA replica is: `nodes` pods of `chips_per_node` chips (a group when nodes > 1)."""

    nodes: Count = 1
    chips_per_node: Count
    tensor_parallel: Count
    pipeline_parallel: Count = 1
    data_parallel: Count = 1  # engines per replica

    @property
    def chips(self) -> int:
        """Chips held by one replica."""
        return self.nodes * self.chips_per_node


class StepTime(_Section):
    """Step time of one pipeline stage in s: base + per_sequence*B + per_kv_token*KV + per_prefill_token*P, and its bends.

    Without the last seven it is that line. docs/method.md, section 2, derives them.
    """

    base_s: Positive
    per_sequence_s: NotNegative
    per_kv_token_s: NotNegative
    per_prefill_token_s: NotNegative
    compute_share: Share = (
        0.0  # of per_prefill_token_s: hidden behind reading the weights until ridge_tokens are computed
    )
    ridge_tokens: NotNegative = 0.0
    experts_s: NotNegative = 0.0  # to read all experts; a token wakes expert_share of them
    expert_share: Share = 0.0
    per_prefill_pair_s: NotNegative = 0.0  # a prompt token and one that it attends to
    long_reduce_s: NotNegative = 0.0  # more for the all-reduces of a step of long_reduce_tokens or more
    long_reduce_tokens: NotNegative = 0.0


class Engine(_Section):
    """vLLM's limits. `kv_tokens` None: derived from memory (facts: KV capacity rule); `step` None: derived prior."""

    vllm_version: str
    max_num_seqs: Count
    max_num_batched_tokens: Count
    max_model_len: Count
    block_size: Count = 16
    kv_tokens: Count | None = None
    memory_utilization: Annotated[float, Field(gt=0, le=1), Number] = 0.9
    memory_overhead_gib: NotNegative = 1.4
    async_scheduling: bool | None = None  # None: what a run shows; false without a run
    request_overhead_s: NotNegative = 0.0075  # API server and tokenisation per request, outside the step
    prefix_hit_fraction: Annotated[float, Field(ge=0, lt=1), Number] = 0.0
    step: StepTime | None = None

    @model_validator(mode="after")
    def _as_vllm_demands(self) -> Engine:
        if self.kv_tokens is not None and self.kv_tokens < self.block_size:
            raise ValueError(
                f"kv_tokens {self.kv_tokens} is less than one block, block_size {self.block_size}"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens {self.max_num_batched_tokens} is below max_num_seqs {self.max_num_seqs}"
            )
        return self


class Phase(_Section):
    """Duration of one start-up phase: log-normal with this median and 95th percentile; equal values mean constant."""

    median_s: NotNegative
    p95_s: NotNegative

    @model_validator(mode="before")
    @classmethod
    def _constant(cls, value: Any) -> Any:
        return {"median_s": value, "p95_s": value} if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _ordered(self) -> Phase:
        if self.p95_s < self.median_s:
            raise ValueError(f"p95_s {self.p95_s} is below median_s {self.median_s}")
        return self


class ColdStart(_Section):
    """Phases from pod created to ready. Weights take weight_bytes / weights_rate_bytes_s, shared when so marked."""

    node: Phase  # until a node is there; 0 when nodes stand by
    image: Phase
    weights_rate_bytes_s: Positive
    weights_shared: bool = False  # replicas that start together share the storage throughput
    engine_init: Phase
    group_join: Phase = Phase(median_s=0, p95_s=0)  # leader and workers find each other
    compile: Phase = Phase(median_s=0, p95_s=0)  # TPU XLA compile with an empty cache
    compile_cached: Phase | None = None  # with a filled cache (second replica onwards); None = no cache

    def median_s(self, weight_bytes: float) -> float:
        """Sum of the phase medians in s (an empty compile cache)."""
        fixed = (self.node, self.image, self.engine_init, self.group_join, self.compile)
        return sum(p.median_s for p in fixed) + weight_bytes / self.weights_rate_bytes_s


class MetricPath(_Section):
    """From a gauge on the replica to the HPA's decision."""

    scrape_interval_s: Positive = 15
    ingestion_delay_s: NotNegative = 10
    adapter_window_s: NotNegative = 300  # a silent pod keeps its last value this long
    sync_period_s: Positive = 15


class Workload(_Section):
    """Default lengths and SLO; lengths use the load generator's syntax, SLO `ttft_p95=2s,tpot_p95=100ms`."""

    prompt_tokens: str
    output_tokens: str
    slo: str
    attainment: Annotated[float, Field(gt=0, lt=1), Number] | None = (
        None  # share that must keep every bound; None: the SLO's own percentiles
    )

    @field_validator("slo", "prompt_tokens", "output_tokens")
    @classmethod
    def _readable(cls, text: str, field: ValidationInfo) -> str:
        from analysis.slo import parse_slo
        from loadgen.plan.lengths import parse_lengths

        try:
            parse_slo(text) if field.field_name == "slo" else parse_lengths(text)
        except BadInput as error:
            raise ValueError(str(error)) from None
        return text


class Deploy(_Section):
    """How the system runs on Kubernetes: everything the manifests need that is not a recommendation."""

    platform: Literal["gke", "gke-tpu", "bare-metal"]
    kind: Literal["LeaderWorkerSet", "Deployment"]
    name: str
    hpa_name: str
    namespace: str = "default"
    labels: dict[str, str]  # pod labels that Service and PodMonitoring select (the leader's, for groups)
    port: Count
    service: str
    service_type: Literal["ClusterIP", "LoadBalancer"] = "ClusterIP"
    image: str
    storage: Literal["hub", "hyperdisk-ml", "gcsfuse", "local"] = "hub"
    model_path: str | None = None  # served from a path: --served-model-name keeps the API's model id
    metrics: MetricsPath = "stackdriver"
    machine_type: str | None = None
    node_pool: str | None = None
    node_selector: dict[str, str] = {}
    min_replicas: Count = 1
    max_replicas: Count = 2
    tutorial_target: Positive  # the tutorial's averageValue for num_requests_waiting
    extra_args: list[str] = []
    # engine limits that vLLM is given as arguments, the others are its defaults; in a file: those that it states
    pass_limits: list[Literal["max_model_len", "max_num_batched_tokens", "max_num_seqs", "block_size"]] = []
    # in the image: joins leader and workers to one Ray cluster
    serving_script: str = "/vllm-workspace/examples/online_serving/multi-node-serving.sh"
    requests: dict[str, str] = {}  # cpu and memory of one pod, as quantities
    shared_memory: str = "15Gi"  # /dev/shm of one pod
    local_ssds: Annotated[int, Field(ge=0), Number] = 0  # of the machine type; they hold weights from the hub


class Profile(_Section):
    """One served system; see the module docstring."""

    name: str
    title: str
    model: Model
    accelerator: Accelerator
    replica: Replica
    engine: Engine
    cold_start: ColdStart
    metric_path: MetricPath = MetricPath()
    workload: Workload
    deploy: Deploy
    predictions: list[str] = []  # numbers here that nobody measured, each as a sentence


def load(name_or_path: str) -> Profile:
    """The profile of that name, or read from a YAML file of the user's.

    Raises BadInput naming the nearest profile, or the file and the field that is wrong.
    """
    try:
        return Profile.model_validate(profile_content(name_or_path))
    except ValidationError as error:
        raise _refused(f"profile {name_or_path}, field", error) from None


def from_content(content: Mapping[str, Any], source: str) -> Profile:
    """The profile that a document holds whole; `source` opens the sentence of what is refused. Raises BadInput."""
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        raise _refused(f"{source}, field", error) from None


def overlay(profile: Profile, changes: dict[str, Any]) -> Profile:
    """The profile with nested keys replaced, validated again (a measured cold start, the user's price).

    Raises BadInput when a key does not exist or a value is not valid.
    """
    try:
        return Profile.model_validate(merged(profile.model_dump(), changes))
    except ValidationError as error:
        raise _refused("cannot set", error) from None


def _refused(what: str, error: ValidationError) -> BadInput:
    """The first field that is wrong; its value where it is one, for a whole section would fill the screen."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "profile"
    if first["type"] == "extra_forbidden":  # what it holds is of no kind that is known: it may be a secret
        return BadInput(f"{what} {field}: no such field", expected="fields as in docs/profiles.md")
    value = first.get("input")
    shown = next(iter(redacted({field.rpartition(".")[2]: value}).values()))
    said = first["msg"].removeprefix("Value error, ")
    return BadInput(
        f"{what} {field}: {said}",
        value=None if isinstance(value, dict | list) or repr(value) in said else shown,
    )
