"""Examples of every verb: shown by its --help and in docs/commands.md."""

from __future__ import annotations

# verb -> (what it is for, command)
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "serve": (
        (
            "one warm replica on port 8000, its metrics on 9100",
            "autoscale serve --replicas 1 --metrics-port 9100",
        ),
        (
            "a fleet that obeys an HPA, cold starts 60 times faster",
            "autoscale serve --hpa my-set/hpa.yaml --speed 60",
        ),
    ),
    "load": (
        (
            "in steps of a minute, judged by an SLO",
            "autoscale load --headless --host http://127.0.0.1:8000 --stages 1:60,2:60,4:60 --slo ttft_p95=2s",
        ),
        (
            "chat, 50 users for ten minutes, over four processes",
            "autoscale load chat --headless --host http://127.0.0.1:8000 -u 50 -t 10m --processes 4",
        ),
        ("on Locust's web page, port 8089", "autoscale load --host http://127.0.0.1:8000"),
        ("all options", "autoscale load --help"),
    ),
    "collect": (
        (
            "scrape a replica while the load runs",
            "autoscale collect runs/first --scrape http://127.0.0.1:9100",
        ),
        ("afterwards, from Prometheus", "autoscale collect runs/first --prometheus http://127.0.0.1:9090"),
        (
            "from Mimir, a tenant's, with a token from a file",
            "autoscale collect runs/first --prometheus https://mimir.example/prometheus --token-file token "
            "--header 'X-Scope-OrgID: $TENANT'",
        ),
    ),
    "traffic": (
        (
            "the last fortnight of one model, for `autoscale recommend --traffic traffic.yaml`",
            "autoscale traffic --prometheus http://127.0.0.1:9090 --model meta-llama/Llama-3.1-8B-Instruct",
        ),
    ),
    "recommend": (
        ("from the newest run, for a day in bursts of 20 requests/s", "autoscale recommend --peak 20"),
        (
            "your profile, traffic and SLO",
            "autoscale recommend runs/first -p my-model.yaml --traffic traffic.yaml --slo ttft_p95=2s,tpot_p95=100ms",
        ),
        (
            "does the target of last month still hold?",
            "autoscale recommend runs/new --against runs/first/recommendation.json",
        ),
    ),
    "watch": (
        (
            "weekly, after `autoscale traffic --last 7d --out week.yaml`: one line, an exit code, metrics for an alert",
            "autoscale watch --recommendation runs/first/recommendation.json --traffic week.yaml "
            "--textfile /var/lib/node_exporter/autoscale.prom",
        ),
    ),
    "predict": (
        (
            "a sweep of short prompts, asked about long ones",
            "autoscale predict runs/first --prompt-tokens uniform:200,400 --output-tokens uniform:24,56",
        ),
        (
            "at rates of your own, under an SLO",
            "autoscale predict runs/first --prompt-tokens fixed:1000 --output-tokens fixed:200 --rates 1,2,4 --slo ttft_p95=2s",
        ),
    ),
    "profile": (
        (
            "the server of a run, as a profile for recommend, simulate and manifests",
            "autoscale profile --from-run runs/first --out my-model.yaml",
        ),
        (
            "of a model and a card that no profile knows",
            "autoscale profile --from-run runs/first --profile llama-3.1-8b-1xl4 --model-config config.json "
            "--accelerator l40s-48gb --price 1.2 --out my-model.yaml",
        ),
    ),
    "simulate": (
        (
            "an HPA beside three standing replicas",
            "autoscale simulate --hpa my-set/hpa.yaml -p my-model.yaml --peak 20 --static 3",
        ),
        (
            "two HPAs",
            "autoscale simulate --hpa my-set/hpa.yaml --compare old/hpa.yaml --traffic traffic.yaml",
        ),
    ),
    "manifests": (
        (
            "the set of a profile, names filled in",
            "autoscale manifests llama-3.1-8b-1xl4 --out my-set --set project=my-project",
        ),
        (
            "with the target of a recommendation",
            "autoscale manifests my-model.yaml --recommendation runs/first/recommendation.json --out my-set",
        ),
    ),
    "lint": (
        ("a directory", "autoscale lint my-set"),
        ("what is in the cluster now", "autoscale lint --cluster --namespace default"),
    ),
    "check": (
        (
            "a cluster under load, held to the recommendation",
            'autoscale check --hpa vllm-hpa --expect runs/first/recommendation.json --load "autoscale load'
            ' --host http://vllm.example.com --rate 20 -t 30m"',
        ),
        ("a simulated fleet", "autoscale check --fleet http://127.0.0.1:8000 --load runs/first --timeout 60"),
        ("judge the evidence of an earlier check again", "autoscale check --replay runs/check"),
    ),
    "report": (
        ("the newest run as a page", "autoscale report"),
        (
            "is it better or worse than last time? exit code 1 when worse",
            "autoscale report runs/new --compare runs/first --out compared.html",
        ),
    ),
    "profiles": (
        ("all that come with the package", "autoscale profiles"),
        ("one, or your own", "autoscale profiles my-model.yaml --json"),
    ),
    "signals": (("what `averageValue` can be of", "autoscale signals"),),
    "traces": (("what --traffic and --trace read", "autoscale traces"),),
    "demo": (("everything once, into a new directory below runs/", "autoscale demo"),),
}


def epilog(verb: str) -> str:
    r"""The examples of a verb as the end of its --help; `\b` keeps click from wrapping them."""
    lines = [f"  # {purpose}\n  {command}" for purpose, command in EXAMPLES[verb]]
    return "\b\nExamples:\n" + "\n".join(lines)
