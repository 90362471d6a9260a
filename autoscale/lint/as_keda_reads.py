"""A ScaledObject of a file as KEDA would read it, without what rules of their own speak of."""

from __future__ import annotations

from autoscale.keda.hpa_made import hpa_spec
from autoscale.keda.refusal import KedaRefusal
from autoscale.keda.scaled_object import ScaledObject
from autoscale.kube.objects import Object, items, mapping
from autoscale.lint.findings import Located


def as_keda_reads(source: Located) -> ScaledObject:
    """The object that an API server has taken, as KEDA reads it. Raises KedaRefusal where it makes no HPA of it."""
    scaled = _with_or_without_formula(_judged_by_keda(source))
    if not scaled.paused:
        hpa_spec(scaled)
    return scaled


def _with_or_without_formula(judged: Object) -> ScaledObject:
    """The ScaledObject; without its formula where that is expr-lang which is not read here."""
    try:
        return ScaledObject.from_manifest(judged)
    except KedaRefusal as refusal:
        if "not simulated" not in refusal.problem and "Identifier(" not in refusal.said:
            raise
    spec = mapping(judged["spec"])
    advanced = {key: value for key, value in mapping(spec["advanced"]).items() if key != "scalingModifiers"}
    return ScaledObject.from_manifest({**judged, "spec": {**spec, "advanced": advanced}})


def judged_by_the_crd(source: Located) -> Object:
    """A ScaledObject without what other rules judge: behavior, labels, numbers for text; generateName stands for a name."""
    metadata = {**source.metadata, "name": source.metadata.get("name") or source.metadata.get("generateName")}
    spec = dict(source.spec)
    config = mapping(mapping(spec.get("advanced")).get("horizontalPodAutoscalerConfig"))
    if config:
        kept = {key: value for key, value in config.items() if key != "behavior"}
        spec["advanced"] = {**mapping(spec["advanced"]), "horizontalPodAutoscalerConfig": kept}
    if isinstance(spec.get("triggers"), list):
        spec["triggers"] = [_as_text(trigger) for trigger in spec["triggers"]]
    for part in ("labels", "annotations"):
        metadata.pop(part, None)
    return {**source.object, "metadata": metadata, "spec": spec}


def _judged_by_keda(source: Located) -> Object:
    """The same as KEDA's webhook and operator judge it: with annotations, and triggers of which nothing is left to judge
    in the place of those that are not read here, or of whose address, query and threshold other rules speak."""
    judged = judged_by_the_crd(source)
    metadata, spec = dict(mapping(judged["metadata"])), dict(mapping(judged["spec"]))
    if not source.metadata.get("name"):
        metadata["name"] = f"{metadata['name']}x"  # an API server puts letters behind a generateName
    annotations = mapping(source.metadata.get("annotations"))
    metadata["annotations"] = {str(key): str(value) for key, value in annotations.items()}
    spec["triggers"] = [_stand_in(mapping(trigger)) for trigger in items(spec.get("triggers"))]
    return {**judged, "metadata": metadata, "spec": spec}


def _stand_in(trigger: Object) -> Object:
    kind, given = str(trigger.get("type")), mapping(trigger.get("metadata"))
    sound = {"serverAddress": "http://p", "query": "up", "threshold": "1"}
    of_pods = kind in ("cpu", "memory")
    if kind == "prometheus":
        return {**trigger, "metadata": {**given, **sound}}
    if kind == "cron" or (of_pods and trigger.get("useCachedMetrics")):
        return trigger
    kept = {key: value for key, value in trigger.items() if not (of_pods and key == "metricType")}
    return {**kept, "type": "prometheus", "metadata": sound}


def _as_text(trigger: object) -> object:
    given = mapping(trigger).get("metadata")
    if not isinstance(given, dict):
        return trigger
    return {**mapping(trigger), "metadata": {str(key): str(value) for key, value in given.items()}}
