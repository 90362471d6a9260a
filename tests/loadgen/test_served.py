"""What a server counts is what was asked: prompts of every kind against the simulated fleet's OpenAI gateway."""

import json

import gevent
import gevent.event
import numpy as np
import pytest

from autoscale.profiles.profile import load, overlay
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.http.hosting import FleetThread
from autoscale.sim.http.server import FleetServer
from loadgen.plan.own_prompts import by_jsonl
from loadgen.plan.traffic import LoadPlan
from loadgen.run.endpoint.manner import Manner, bodies
from loadgen.run.endpoint.server_facts import ENDPOINTS, inspect_server
from loadgen.run.options import LoadOptions
from loadgen.wire.client import Client, Limits
from loadgen.wire.clock import now_s
from loadgen.wire.exchange import Exchange
from loadgen.wire.target import HttpTarget

PROFILE = overlay(load("llama-3.1-8b-1xl4"), {"engine": {"max_model_len": 8192, "request_overhead_s": 0.0}})
QUICK = EngineParams(
    base_s=0.001, per_sequence_s=0.0, per_kv_token_s=0.0, per_prefill_token_s=0.0, num_blocks=4001, max_num_seqs=64,
    max_num_batched_tokens=8192,
)  # fmt: skip
CONVERSATION = """
load: [{constant: {rate_rps: 40, duration_s: 1}}]
arrivals: constant
prompt_tokens: uniform:20,90
output_tokens: uniform:2,6
conversations: {turns: 3, concurrent: 4}
"""


@pytest.fixture(scope="module")
def fleet():
    with FleetThread(FleetServer(PROFILE, port=0, engine=QUICK)) as server:
        yield server


def options(**given) -> LoadOptions:
    return LoadOptions(**given)


def answers(fleet, plan: LoadPlan, endpoint: str, source=None):
    """(arrivals, their answers in order) of the whole plan, sent at once."""
    client = Client(HttpTarget.from_url(fleet.url), Limits())
    chosen = options()
    server = inspect_server(chosen, client.target, endpoint)
    assert (server.manner.model, server.max_model_len) == (PROFILE.model.id, 8192)
    source = source or bodies(chosen, plan, endpoint, server.manner, 1)
    [arrivals] = plan.arrivals()
    exchanges, left = [], gevent.event.Event()

    def over(_):
        if not client.in_flight:
            left.set()

    for row in zip(*(getattr(arrivals, c).tolist() for c in ("request_id", "prompt_tokens", "output_tokens", "prefix_tokens")), strict=True):  # fmt: skip
        payload = client.target.request("POST", ENDPOINTS[endpoint], source.body(*row))
        exchanges.append(Exchange(row[0], payload, now_s(), over))
    for exchange in exchanges:
        client.submit(exchange)
    assert left.wait(20)
    client.close()
    return arrivals, [exchange.answer() for exchange in exchanges]


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("kind", ["unique", "shared prefix", "conversations"])
def test_the_server_counts_the_asked_tokens(fleet, tmp_path, endpoint, kind):
    file = tmp_path / "load.yaml"
    file.write_text(CONVERSATION)
    if kind == "conversations":
        plan = LoadPlan.from_options(load_file=file)
    else:
        shared = 30 if kind == "shared prefix" else 0
        plan = LoadPlan.from_options(
            stages="40:1", arrivals="constant", prompt_tokens="uniform:40,300", output_tokens="uniform:2,6",
            shared_prefix_tokens=shared,
        )  # fmt: skip
    arrivals, got = answers(fleet, plan, endpoint)
    assert {a.status for a in got} == {"ok"}, {a.error for a in got}
    assert [a.prompt_tokens for a in got] == arrivals.prompt_tokens.tolist()
    assert [a.output_tokens for a in got] == arrivals.output_tokens.tolist()
    if kind == "conversations":  # each turn contains the earlier ones: 12 requests on, prompts begin anew
        assert (arrivals.prompt_tokens[4:8] > arrivals.prompt_tokens[:4]).all()
        assert len(np.unique(arrivals.prompt_tokens)) > 10


@pytest.mark.parametrize(
    ("endpoint", "rows"),
    [
        ("completions", [{"prompt": "one two three"}, {"prompt": "four", "output_tokens": 3}]),
        ("chat", [{"prompt": "one two"}, {"messages": [{"role": "user", "content": "three"}], "output_tokens": 3}]),
    ],
    ids=["completions", "chat"],
)  # fmt: skip
def test_own_prompts_in_turn_with_their_own_lengths(fleet, tmp_path, endpoint, rows):
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    source = by_jsonl(
        bodies(
            options(), LoadPlan.from_options(rate=1.0), endpoint, Manner(PROFILE.model.id, ""), 1
        ).template,
        file,
    )
    plan = LoadPlan.from_options(stages="6:1", arrivals="constant", output_tokens="fixed:5")
    _, got = answers(fleet, plan, endpoint, source)
    assert {a.status for a in got} == {"ok"}
    assert [a.output_tokens for a in got] == [5, 3] * 3
    lengths = [a.prompt_tokens for a in got]
    assert lengths == lengths[:2] * 3
    assert lengths[0] > lengths[1] > 0
