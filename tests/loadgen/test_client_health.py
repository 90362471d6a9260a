"""Who limited a run: real recordings and made-up stages, each with its reason."""

import numpy as np
import pytest

from analysis import run
from loadgen.run.client_health import judge_client
from tests.recorded_sweeps import sweep_to_run

STAGES = [{"stage": 0, "start_s": 0.0, "end_s": 60.0, "rate": 10.0}]


def rows(n=600, lag_s=0.0005, ttft_s=0.05, e2e_s=1.0, dropped=0):
    due = np.arange(n) / 10
    sent = due + lag_s
    status = np.array(["ok"] * n, dtype=object)
    status[n - dropped :] = "dropped"
    gone = np.where(status == "dropped", np.nan, 0.0)
    return {
        "stage": np.zeros(n),
        "due_s": due,
        "sent_s": sent + gone,
        "first_token_s": sent + ttft_s + gone,
        "last_token_s": sent + e2e_s + gone,
        "status": status,
    }


def samples(**over):
    n = 120
    base = {
        "worker": ["local"] * n,
        "time_s": np.arange(1, n + 1) * 0.5,
        "interval_s": [0.5] * n,
        "cpu_s": [0.1] * n,
        "starved_s": [0.0] * n,
        "stalled_s": [0.0] * n,
        "in_flight": [10] * n,
        "waited": [0] * n,
        "waiting": [0] * n,
        "throttled_s": [np.nan] * n,
        "reads": [1000] * n,
        "stamped": [1000] * n,
        "late_reads": [0] * n,
        "events": [900] * n,
        "shared": [0] * n,
        "blurred": [0] * n,
    }
    return base | {name: [value] * n for name, value in over.items()}


ROWS = [
    ("a client that is never late is ok", rows(), samples(), None, []),
    ("at 20 % load it is ok", rows(), samples(cpu_s=0.1), 4096, []),
    ("without samples, requests alone are judged", rows(), None, None, []),
    ("requests sent 100 ms late at a TTFT of 50 ms", rows(lag_s=0.1), samples(), None, ["send_lag"]),
    ("requests 20 ms late at a TTFT of 5 s do not matter", rows(lag_s=0.02, ttft_s=5.0), samples(), None, []),
    ("an event loop that stood still a tenth of the time", rows(), samples(stalled_s=0.05), None, ["stalled"]),
    ("a process that got no core for 80 % of the time", rows(), samples(starved_s=0.4), None, ["starved"]),
    ("a process that waited for a core and read in time all the same", rows(), samples(starved_s=0.2), None, []),
    ("the same where the kernel stamps no reads", rows(), samples(starved_s=0.2, stamped=0), None, ["starved"]),
    ("a neighbour on the core, so that nothing is to spare", rows(), samples(cpu_s=0.15, starved_s=0.31), None, ["starved"]),
    ("a container at its CPU limit", rows(), samples(throttled_s=0.02), None, ["throttled"]),
    ("reads 20 ms late with one token each: their stamps are true", rows(), samples(late_reads=800), None, []),
    ("late reads with several tokens", rows(), samples(late_reads=300, shared=300, blurred=40), None, ["blurred"]),
    ("a server that sends its tokens in pairs, read in time", rows(), samples(shared=450), None, []),
    ("a kernel that does not say is no reason", rows(), samples(starved_s=np.nan), None, []),
    ("a full core", rows(), samples(cpu_s=0.49), None, ["cpu"]),
    ("requests that waited for a seat", rows(lag_s=3.0), samples(waiting=4), 10, ["send_lag", "cap"]),
    # Little's law: 10 requests/s of 1 s each need 10 in flight
    ("a cap of 5 that 10 in flight do not fit into", rows(lag_s=3.0), None, 5, ["send_lag", "cap"]),
    ("late for another reason than the cap", rows(lag_s=3.0), None, 50, ["send_lag"]),
    ("a pool that opens connections when requests are due", rows(lag_s=0.011), samples(waited=5), None, ["pool"]),
    ("a tenth not sent", rows(dropped=60), samples(), None, ["not_sent"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("requests", "sampled", "cap", "codes"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_reasons(requests, sampled, cap, codes):
    if codes == ["pool"]:
        requests = rows(lag_s=0.0124)  # beyond 10 ms, within a quarter of the TTFT
    verdict = judge_client(requests, STAGES, sampled, cap)
    assert [reason.code for reason in verdict.stages[0].reasons] == codes
    assert verdict.verdict == ("limited" if codes else "ok")


def test_the_stage_says_how_its_answers_were_read_and_the_run_by_whose_clock():
    verdict = judge_client(rows(), STAGES, samples(late_reads=100, stamped=950, shared=90, blurred=9))
    reads = verdict.stages[0].reads
    assert reads == {
        "number": 120_000,
        "stamped": 0.95,
        "late": 0.1053,
        "shared": 0.1,
        "blurred": 0.01,
    }  # 100 of 950
    assert verdict.read_clock == "kernel"
    assert judge_client(rows(), STAGES, samples(stamped=0)).read_clock == "process"
    assert judge_client(rows(), STAGES, None).read_clock is None


def test_the_worst_worker_decides():
    two = samples()
    two["worker"] = ["w0", "w1"] * 60
    two["cpu_s"] = [0.05, 0.48] * 60
    assert [r.code for r in judge_client(rows(), STAGES, two).stages[0].reasons] == ["cpu"]


def test_a_stage_without_requests_has_no_figures_and_no_reason():
    verdict = judge_client({name: values[:0] for name, values in rows().items()}, STAGES)
    assert verdict.stages[0].send_lag_p95_s is None
    assert verdict.verdict == "ok"


def test_the_real_step_in_which_the_client_stalled_is_found(tmp_path):
    recorded = run.read(sweep_to_run("sweep_A", tmp_path / "A"))
    verdict = judge_client(recorded.requests, recorded.header["stages"])
    by_rate = {s["rate"]: v for s, v in zip(recorded.header["stages"], verdict.stages, strict=True)}
    assert by_rate[1.0].verdict == "limited"
    assert by_rate[1.0].send_lag_p95_s == pytest.approx(3.25, abs=0.01)
    assert [rate for rate, v in by_rate.items() if v.verdict == "limited"] == [1.0]


def test_the_clean_sweep_was_never_limited(tmp_path):
    recorded = run.read(sweep_to_run("sweep_D", tmp_path / "D"))
    verdict = judge_client(recorded.requests, recorded.header["stages"])
    assert {v.verdict for v in verdict.stages} == {"ok"}
