"""What verbs are given, as what they need: run directories, rates, HPA files."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import BadInput

if TYPE_CHECKING:
    from autoscale.bill import Price
    from autoscale.recommend.choice.keda.space import KedaAsked
    from autoscale.recommend.choice.promise import Promise
    from autoscale.recommendation import KubernetesObject
    from autoscale.sim.fleet.control import FleetOptions


MOST_RATES = 50  # each takes about a second
MOST_OF_A_CURRENCY = 12  # characters


def run_path(run: Path | None) -> Path:
    """The run directory, by default the newest under runs/. Raises BadRun when there is none."""
    from analysis.errors import BadRun
    from analysis.run import newest

    if run is not None:
        return run
    found = newest()
    if found is None:
        raise BadRun(
            "there is no run under runs/",
            next_step="make one with `autoscale load --host URL --rate 1`",
        )
    print(f"using the newest run, {found}", file=sys.stderr)
    return found


def rates_of(text: str | None) -> list[float]:
    """ "1,2,4" as numbers, each once; none without text."""
    from analysis.numbers import read_number

    try:
        rates = list(dict.fromkeys(map(read_number, text.split(",")))) if text else []
        if len(rates) <= MOST_RATES:
            return rates
        raise BadInput("--rates", value=f"{len(rates)} rates", expected=f"at most {MOST_RATES}")
    except ValueError:
        raise BadInput(
            "rates", value=text, expected="requests/s separated by commas, for example 1,2,4"
        ) from None


def price_of(text: str | None) -> Price | None:
    """The price that "2.5" or "2.5 EUR" says."""
    from analysis.numbers import read_number
    from autoscale.bill import Price

    if text is None:
        return None
    number, _, currency = text.strip().partition(" ")
    try:
        value = read_number(number)
    except ValueError:
        value = math.nan
    readable = len(currency) <= MOST_OF_A_CURRENCY and currency.isprintable()
    if not 0 <= value < math.inf or not readable:
        raise BadInput(
            "--price",
            value=text,
            expected="a price of at least 0 and, after a space, its currency if you like: 2.5 or '2.5 EUR'",
        )
    return Price(value, currency.strip())


def promise_of(days_kept: str | None, longest_breach: str | None) -> Promise:
    """What is promised of days: "95%" or "0.95" of them keep the SLO, with no stretch over it longer than "10m"."""
    from analysis.numbers import parse_seconds, read_number
    from autoscale.recommend.choice.promise import Promise

    given: dict[str, float] = {}
    if days_kept is not None:
        try:
            given["days_kept"] = read_number(days_kept.rstrip("%")) / (100 if days_kept.endswith("%") else 1)
        except ValueError:
            raise BadInput("--days-kept", value=days_kept, expected="a share such as 95%") from None
    if longest_breach is not None:
        given["longest_breach_s"] = parse_seconds(longest_breach)
        if not given["longest_breach_s"] >= 0:
            raise BadInput("--longest-breach", value=longest_breach, expected="a time such as 10m or 600s")
    return Promise(**given)


def told_apart(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each file under the end of its path that no other one has: hpa.yaml, or a/hpa.yaml beside b/hpa.yaml.

    Raises BadInput for a file that is named twice.
    """
    by_place = {path.resolve(): path for path in paths}
    if len(by_place) < len(paths):
        raise BadInput(
            "an HPA is given twice", value=", ".join(map(str, paths)), next_step="name each file once"
        )
    for place, path in by_place.items():
        others = [other.parts for other in by_place if other != place]
        parts = place.parts
        length = next(
            n for n in range(1, len(parts) + 1) if all(other[-n:] != parts[-n:] for other in others)
        )
        yield "/".join(parts[-length:]), path


def lengths_asked(
    prompt: str | None, output: str | None, traffic: Path | None
) -> tuple[str | None, str | None]:
    """The lengths that --prompt-tokens and --output-tokens say. Raises BadInput beside a traffic file, which has its own."""
    from loadgen.plan.lengths import parse_lengths

    for option, given in (("--prompt-tokens", prompt), ("--output-tokens", output)):
        if given is not None and traffic is not None:
            raise BadInput(
                f"{option} and --traffic exclude each other",
                value=given,
                next_step="say the lengths in the traffic file",
            )
        if given is not None:
            parse_lengths(given)
    return prompt, output


def hpa_in(path: Path) -> KubernetesObject:
    """The ScaledObject in a YAML file or in a List of it, else the HorizontalPodAutoscaler; other kinds are passed over.

    Of a file with both the HPA is taken to be the one that KEDA made, unless it is a cluster's and says otherwise. Raises
    BadInput for none, and for two that differ.
    """
    from analysis.files import read_documents
    from autoscale.kube.scaler import Hpa

    documents = list(_objects_in(read_documents(path, "HPA file")))
    of_kind = {
        kind: [document for document in documents if document.get("kind") == kind]
        for kind in ("ScaledObject", "HorizontalPodAutoscaler")
    }
    hpas = [Hpa(dict(document)) for document in of_kind["HorizontalPodAutoscaler"]]
    strange = [hpa.name for hpa in hpas if "uid" in (hpa.object.get("metadata") or {}) and not hpa.made_by]
    for kind, found in of_kind.items():
        if kind == "ScaledObject" and found and strange:
            raise BadInput(
                f"{path} holds a ScaledObject and an HPA that KEDA did not make",
                value=", ".join(strange),
                expected="one autoscaler",
                next_step="write each to a file of its own",
            )
        if any(document != found[0] for document in found):
            names = ", ".join(str((one.get("metadata") or {}).get("name")) for one in found)
            raise BadInput(
                f"{path} holds several of kind {kind}",
                value=names,
                expected="one",
                next_step="write each to a file of its own",
            )
        if found:
            return found[0]
    raise BadInput(
        f"{path} holds no HorizontalPodAutoscaler and no ScaledObject",
        value=", ".join(dict.fromkeys(str(document.get("kind")) for document in documents)) or None,
        expected="an autoscaling/v2 manifest, or one of keda.sh/v1alpha1",
        next_step="where a controller makes one of it, give that: kubectl get scaledobject,hpa -o yaml",
    )


def _objects_in(documents: Iterable[object]) -> Iterator[KubernetesObject]:
    """The objects of a file, those of its Lists among them."""
    from autoscale.kube.objects import members

    for document in documents:
        if isinstance(document, dict):
            listed = members(document)
            if listed is None:
                yield document
            else:
                yield from _objects_in(listed)


@contextmanager
def in_file(path: Path | None) -> Iterator[None]:
    """Names the file in the sentence about what it holds: several may be given, and a field says not in which it is."""
    try:
        yield
    except BadInput as error:
        if path is None or str(path) in str(error):
            raise
        raise BadInput(
            f"{path}: {error.what}", value=error.value, expected=error.expected, next_step=error.next_step
        ) from None


def sound_hpa(path: Path) -> KubernetesObject:
    """What `hpa_in` finds, as the API server or KEDA takes it. Raises BadInput naming the file and the field."""
    from autoscale.hpa import HpaSpec
    from autoscale.keda import ScaledObject

    found = hpa_in(path)
    with in_file(path):
        if found["kind"] == "ScaledObject":
            ScaledObject.from_manifest(found)
        else:
            HpaSpec.from_manifest(dict(found), scale_to_zero=True)
    return found


def keda_asked(
    scaler: str, to_zero: bool, slo_cold_start: str | None, fleet: FleetOptions
) -> KedaAsked | None:
    """What --scaler, --to-zero and --slo-cold-start ask of a ScaledObject; None for an HPA."""
    from analysis.numbers import parse_seconds
    from autoscale.recommend.choice.keda.space import KedaAsked, check_zero

    bound_s = None if slo_cold_start is None else parse_seconds(slo_cold_start)
    if bound_s is not None and not bound_s > 0:
        raise BadInput("--slo-cold-start", value=slo_cold_start, expected="a time such as 10m or 600s")
    if scaler == "keda":
        if to_zero or bound_s is not None:
            check_zero(fleet)
        return KedaAsked(to_zero or bound_s is not None, bound_s)
    if to_zero or bound_s is not None:
        option = "--to-zero" if bound_s is None else "--slo-cold-start"
        raise BadInput(f"{option} is of a ScaledObject", next_step="say --scaler keda, or leave it out")
    return None


def fleet_options(gateway: str | None, client_timeout: str | None) -> FleetOptions:
    """A simulated fleet's surroundings: an inference gateway, and how long clients wait."""
    from analysis.numbers import parse_seconds
    from autoscale.sim.engine.gateway import parse_gateway
    from autoscale.sim.fleet.control import FleetOptions

    patience_s = math.inf if client_timeout is None else parse_seconds(client_timeout)
    if not patience_s > 0:
        raise BadInput("--client-timeout", value=client_timeout, expected="a time such as 5m or 300s")
    return FleetOptions(gateway=None if gateway is None else parse_gateway(gateway), patience_s=patience_s)
