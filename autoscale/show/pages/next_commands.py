"""What to do after a recommendation, as commands in the order to run them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from autoscale.deploy.gateway import scorers
from autoscale.profiles import names
from autoscale.recommend import Recommended


def next_commands(result: Recommended) -> Iterator[tuple[str, str]]:
    """(what it does, command) in the order to run them, for the answer at hand."""
    made, deploy = result.document, result.scenario.profile.deploy
    answer, name = made.answer, result.scenario.profile.name
    file = shlex.quote(str(result.files[0])) if result.files else "recommendation.json"
    profile = shlex.quote(name if name in names() else f"{name}.yaml")
    again = "autoscale recommend runs/NEW --profile " + profile
    if answer == "autoscale":
        keda = made.scaled_object is not None
        behind = made.gateway is not None and scorers(made.gateway) and deploy.platform == "gke"
        metrics = " --metrics llm-d" if behind else " --metrics keda" if keda else ""
        yield (
            f"write the whole set around the {'ScaledObject' if keda else 'HPA'}",
            f"autoscale manifests {profile} --recommendation {file}{metrics} --out my-set",
        )
        yield "look for what could go wrong", "autoscale lint my-set"
        own = "scaledobject.yaml" if keda else "hpa.yaml"
        hpa = next((str(f) for f in result.files if f.name == own), own)
        yield f"apply the {'ScaledObject' if keda else 'HPA'} alone", f"kubectl apply -f {shlex.quote(hpa)}"
        yield "prove that it scales out as predicted", _check(result, file)
    elif answer == "do_not_autoscale":
        where = f"--namespace {shlex.quote(deploy.namespace)}"
        yield (
            "remove an HPA that is there",
            f"kubectl delete hpa {shlex.quote(deploy.hpa_name)} {where} --ignore-not-found",
        )
        kind = f"{deploy.kind.lower()}/{deploy.name}"
        yield (
            "keep the replicas standing",
            f"kubectl scale {shlex.quote(kind)} --replicas={made.min_replicas} {where}",
        )
    elif answer == "infeasible":
        runs = shlex.join(["autoscale", "recommend", *made.provenance.runs])
        same = f"{runs} --profile {profile} --traffic FILE"
        if result.from_production:
            same = f"autoscale recommend --from-prometheus URL --profile {profile}"
        yield "ask for less of the same traffic", f"{same} --slo 'ttft_p95=5s,tpot_p95=200ms'"
        if not {"slo_idle", "too_long"} & {reason.code for reason in made.reasons}:
            yield "allow more replicas", f"{same} --max-replicas N"
    else:
        measured = made.capacity_rps.measured
        sweep = (measured.next_command if measured else None) or (
            "autoscale load --headless --host URL --stages 1:120,2:120,4:120,8:120 "
            "--prompt-tokens uniform:100,1500 --output-tokens uniform:50,250"
        )
        yield "measure again on one quiet replica", f"{sweep} --run-dir runs/NEW"
        yield "fetch the server's metrics", "autoscale collect runs/NEW --prometheus URL"
        yield "ask again", again
    if answer in ("autoscale", "do_not_autoscale") and result.from_production:
        yield "every week: does it still hold?", f"autoscale watch --recommendation {file} --prometheus URL"
    elif answer in ("autoscale", "do_not_autoscale"):
        yield "later, after a new measurement: does it still hold?", f"{again} --against {file}"


def _check(result: Recommended, file: str) -> str:
    fewest, deploy = result.document.min_replicas or 1, result.scenario.profile.deploy
    point = result.decision.capacity
    rate = (fewest + 0.5) * point.rate_rps if point else 5.0
    load = f"autoscale load --host URL --rate {rate:.2g} -t 1800s"
    return (
        f"autoscale check --namespace {shlex.quote(deploy.namespace)} --hpa {shlex.quote(deploy.hpa_name)} "
        f"--expect {file} --load {shlex.quote(load)}"
    )
