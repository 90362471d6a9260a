"""The name that is suggested for a mistyped one is one that a reader would have meant, or none."""

import pytest
from typer.testing import CliRunner

from analysis.errors import BadInput, nearest
from autoscale.cli import app
from autoscale.cli.usage import usage_sentence
from autoscale.deploy.choices import options
from autoscale.profiles import names

OPTIONS = ("--out", "--slo", "--run", "--compare", "--timeout", "--prompt-tokens", "--traffic", "--scaler")


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("prjoect", ("project", "bucket"), "project"),
        ("health-probes", ("health_probes", "drain"), "health_probes"),
        ("Project", ("project", "bucket"), "project"),
        ("least", ("connection", "least_requests"), "least_requests"),
        ("llama-3.1-8b-1xl", names(), "llama-3.1-8b-1xl4"),
        ("llama-8b", names(), "llama-3.1-8b-1xl4"),
        ("--timeut", OPTIONS, "--timeout"),
        ("--prompt-token", OPTIONS, "--prompt-tokens"),
        ("project", ("project", "projects"), None),  # it is one of them
        ("--routing", OPTIONS, None),
        ("--s", OPTIONS, None),
        ("xx", names(), None),
        ("", names(), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_name_means_the_nearest_known_one_or_none(given, known, meant):
    assert nearest(given, known) == meant


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("project", "without a value: 'project'; expected project=VALUE"),
        ("projct=mine", "unknown option of a manifest set: 'projct=mine'; expected .* Did you mean project"),
        ("hf_token_value=pl4nted", "unknown option of a manifest set: 'hf_token_value'; expected name=value"),
        ("hf_token: pl4nted", "unknown option of a manifest set: 'hf_token'; expected name=value"),
        (
            "stage=servin",
            "option stage: 'servin'; expected one of all, weights, serving. Did you mean serving",
        ),
    ],
)
def test_an_option_of_a_set_is_refused_for_what_is_wrong_with_it(given, said):
    with pytest.raises(BadInput, match=said):
        options([given])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("recommend", "--slos", "ttft_p95=1s"), "No such option: --slos. Did you mean --slo?"),
        (("recommend", "--routing", "x"), "No such option: --routing"),
        (("recommend", "--scaler", "kda"), "'kda'; expected one of hpa, keda. Did you mean keda?"),
        (
            ("serve", "--routing", "robin"),
            "'robin'; expected one of connection, random, round_robin, least_requests. Did you mean round_robin?",
        ),
        (("manifets",), "No such command 'manifets'. Did you mean manifests?"),
        (("lists",), "No such command 'lists'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_word_of_a_command_is_refused_with_the_nearest_one(words, said):
    error = CliRunner().invoke(app, words, standalone_mode=False).exception
    assert usage_sentence(error) == said
