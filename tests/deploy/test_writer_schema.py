"""Every object is valid: built-in kinds against the API schemas of three versions, custom ones against their structure."""

import json
import shutil
import subprocess
from functools import cache

import jsonschema
import kubernetes.client
import kubernetes_validate
import pytest
import yaml

from autoscale.deploy import alerts, load_set, targets, weights, writer
from autoscale.deploy.choices import Options
from autoscale.deploy.yaml_out import plain_yaml
from autoscale.kube.vllm_names import PATHS
from autoscale.profiles import load, names
from autoscale.recommendation import parse_recommendation

VERSIONS = ("1.35", "1.36", "1.37")
CUSTOM_GROUPS = (
    "leaderworkerset.x-k8s.io",
    "monitoring.",
    "keda.sh",
    "autoscaling.gke.io",
    "inference.networking.k8s.io",
    "gateway.networking.k8s.io",
)

RECOMMENDATION = parse_recommendation(
    {
        "answer": "autoscale",
        "metrics": [
            {"name": "waiting", "averageValue": "5500m", "interval": ["3", "8"]},
            {"name": "running", "averageValue": "96", "interval": ["80", "110"]},
            {"name": "kv_usage", "averageValue": "0.504", "interval": ["0.45", "0.6"]},
        ],
        "minReplicas": 2,
        "maxReplicas": 6,
        "behavior": {
            "scaleUp": {
                "stabilizationWindowSeconds": 0,
                "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}],
                "selectPolicy": "Max",
            },
            "scaleDown": {
                "stabilizationWindowSeconds": 3600,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1800}],
            },
        },
    }
)


def paths(name):
    platform = load(name).deploy.platform
    elsewhere = {"stackdriver", "autoscalingmetric"} if platform == "bare-metal" else set()
    return [path for path in PATHS if path not in elsewhere and (path != "llm-d" or platform == "gke")]


CASES = [
    (name, path, recommendation)
    for name in names()
    for path in paths(name)
    for recommendation in (None, RECOMMENDATION)
    if path != "llm-d" or recommendation is None
]
CASE_IDS = [
    f"{name}, {path}, {'derived' if recommendation else 'tutorial'} target"
    for name, path, recommendation in CASES
]


def everything(name, path, recommendation):
    profile, options = load(name), Options(checker_may_scale=True, create_namespace=True)
    found = writer.objects(profile, recommendation, path, options)
    rules = alerts.alert_rules(profile, path, targets.plan(profile, recommendation))
    return [*found, plain_yaml(rules)]


def is_custom(document):
    return document["apiVersion"].startswith(CUSTOM_GROUPS)


@pytest.mark.parametrize(("name", "path", "recommendation"), CASES, ids=CASE_IDS)
def test_built_in_kinds_pass_the_strict_schema_of_recent_versions(name, path, recommendation):
    checked = [o for o in everything(name, path, recommendation) if not is_custom(o)]
    assert len(checked) >= 7
    for document in checked:
        document["metadata"]["labels"]["app.kubernetes.io/part-of"] = "x"  # the same objects are in many sets
        for version in VERSIONS:
            assert accepts(version, json.dumps(document))


@cache
def accepts(version, text):
    """Whether the strict schema of a version takes an object (raises when not); each object is asked about once."""
    return kubernetes_validate.validate(json.loads(text), version, strict=True) == version


@pytest.mark.parametrize(
    "document",
    [plain_yaml(d) for d in (*load_set.load_objects(), load_set.reader())],
    ids=lambda d: d["metadata"]["name"] + " " + d["kind"],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_load_generators_objects_pass_too(document, version):
    kubernetes_validate.validate(document, version, strict=True)


# --- custom kinds: only fields that their definitions have -------------------------------------------------------------


def closed(required, optional=None):
    """A JSON schema of an object with these properties and no others."""
    properties = required | (optional or {})
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, COUNT, ANY = {"type": "string"}, {"type": "integer", "minimum": 0}, {}
LABELS = {"type": "object", "additionalProperties": TEXT, "minProperties": 1}
SELECTOR = closed({"matchLabels": LABELS})
META = closed({"name": TEXT, "namespace": TEXT, "labels": LABELS})
TEMPLATE = closed({"metadata": closed({"labels": LABELS}), "spec": {"type": "object"}})
POLICY = closed(
    {
        "type": {"enum": ["Pods", "Percent"]},
        "value": COUNT,
        "periodSeconds": {"type": "integer", "maximum": 1800},
    }
)
SIDE = closed(
    {},
    {
        "stabilizationWindowSeconds": {"type": "integer", "maximum": 3600},
        "policies": {"type": "array", "items": POLICY},
        "selectPolicy": TEXT,
    },
)
BEHAVIOR = closed({}, {"scaleUp": SIDE, "scaleDown": SIDE})
RULE = {
    "oneOf": [
        closed({"record": TEXT, "expr": TEXT}, {"labels": LABELS}),
        closed(
            {
                "alert": TEXT,
                "expr": TEXT,
                "for": {"type": "string", "pattern": r"^\d+[smh]$"},
                "labels": LABELS,
                "annotations": LABELS,
            }
        ),
    ]
}
RULES = closed(
    {
        "groups": {
            "type": "array",
            "items": closed({"name": TEXT, "interval": TEXT, "rules": {"type": "array", "items": RULE}}),
        }
    }
)
SPECS = {
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): closed(
        {
            "replicas": COUNT,
            "leaderWorkerTemplate": closed(
                {
                    "size": {"type": "integer", "minimum": 1},
                    "restartPolicy": {"enum": ["Default", "RecreateGroupOnPodRestart", "None"]},
                    "leaderTemplate": TEMPLATE,
                    "workerTemplate": TEMPLATE,
                }
            ),
        }
    ),
    ("monitoring.googleapis.com/v1", "PodMonitoring"): closed(
        {
            "selector": SELECTOR,
            "endpoints": {
                "type": "array",
                "items": closed(
                    {"port": {"type": ["integer", "string"]}, "interval": {"pattern": r"^\d+s$"}},
                    {"path": TEXT},
                ),
            },
        }
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        {
            "selector": SELECTOR,
            "podMetricsEndpoints": {
                "type": "array",
                "items": closed({"port": TEXT, "path": TEXT, "interval": {"pattern": r"^\d+s$"}}),
            },
        }
    ),
    ("monitoring.googleapis.com/v1", "Rules"): RULES,
    ("monitoring.coreos.com/v1", "PrometheusRule"): RULES,
    ("inference.networking.k8s.io/v1", "InferencePool"): closed(
        {
            "targetPorts": {"type": "array", "maxItems": 8, "items": closed({"number": COUNT})},
            "selector": SELECTOR,
            "endpointPickerRef": closed(
                {
                    "name": TEXT,
                    "port": closed({"number": COUNT}),
                    "failureMode": {"enum": ["FailOpen", "FailClose"]},
                }
            ),
        }
    ),
    ("gateway.networking.k8s.io/v1", "Gateway"): closed(
        {
            "gatewayClassName": TEXT,
            "listeners": {
                "type": "array",
                "items": closed({"name": TEXT, "protocol": {"enum": ["HTTP", "HTTPS"]}, "port": COUNT}),
            },
        }
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): closed(
        {
            "parentRefs": {"type": "array", "items": closed({"name": TEXT})},
            "rules": {
                "type": "array",
                "items": closed(
                    {
                        "backendRefs": {
                            "type": "array",
                            "items": closed({"group": TEXT, "kind": TEXT, "name": TEXT}),
                        },
                        "timeouts": closed({"request": {"pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}}),
                    }
                ),
            },
        }
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        {
            "scaleTargetRef": closed({"apiVersion": TEXT, "kind": TEXT, "name": TEXT}),
            "triggers": {
                "type": "array",
                "items": closed(
                    {
                        "type": {"const": "prometheus"},
                        "metricType": {"const": "AverageValue"},
                        "metadata": closed(
                            {
                                "serverAddress": TEXT,
                                "query": TEXT,
                                "threshold": {"pattern": r"^\d+(\.\d+)?$"},
                            },
                            {"ignoreNullValues": {"enum": ["true", "false"]}},
                        ),
                    }
                ),
            },
        },
        {
            "pollingInterval": COUNT,
            "minReplicaCount": COUNT,
            "maxReplicaCount": COUNT,
            "advanced": closed(
                {"horizontalPodAutoscalerConfig": closed({}, {"name": TEXT, "behavior": BEHAVIOR})}
            ),
        },
    ),
    ("autoscaling.gke.io/v1beta1", "AutoscalingMetric"): closed(
        {
            "metrics": {
                "type": "array",
                "maxItems": 20,
                "items": closed(
                    {
                        "pod": closed(
                            {
                                "selector": closed(
                                    {
                                        "matchLabels": {
                                            "type": "object",
                                            "propertyNames": {"pattern": "^[A-Za-z0-9_-]+$"},
                                            "additionalProperties": TEXT,
                                        }
                                    }
                                ),
                                "containers": {
                                    "type": "array",
                                    "items": closed(
                                        {
                                            "endpoint": closed({"port": COUNT, "path": TEXT}),
                                            "metrics": {
                                                "type": "array",
                                                "items": closed(
                                                    {
                                                        "gauge": closed(
                                                            {
                                                                "name": {"pattern": "^[a-z0-9-]{1,63}$"},
                                                                "prometheusMetricName": TEXT,
                                                            }
                                                        )
                                                    }
                                                ),
                                            },
                                        }
                                    ),
                                },
                            }
                        )
                    }
                ),
            }
        }
    ),
}


@pytest.mark.parametrize(("name", "path", "recommendation"), CASES, ids=CASE_IDS)
def test_custom_kinds_hold_only_fields_of_their_definitions(name, path, recommendation):
    custom = [o for o in everything(name, path, recommendation) if is_custom(o)]
    assert custom
    for document in custom:
        spec = SPECS[document["apiVersion"], document["kind"]]
        jsonschema.validate(
            document, closed({"apiVersion": TEXT, "kind": TEXT, "metadata": META, "spec": spec})
        )


@pytest.mark.parametrize("name", [n for n in names() if load(n).deploy.kind == "LeaderWorkerSet"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_pod_templates_of_a_group_are_valid_pods(name, version):
    [lws] = [o for o in writer.objects(load(name)) if o["kind"] == "LeaderWorkerSet"]
    for part in ("leaderTemplate", "workerTemplate"):
        template = lws["spec"]["leaderWorkerTemplate"][part]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x", **template["metadata"]},
            "spec": template["spec"],
        }
        kubernetes_validate.validate(pod, version, strict=True)


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_built_in_kinds_survive_the_kubernetes_clients_models(name):
    client = kubernetes.client.ApiClient()
    documents = [o for o in writer.objects(load(name), RECOMMENDATION) if not is_custom(o)]
    for document in documents:
        group, _, version = document["apiVersion"].rpartition("/")
        model = {"": "", "apps": "", "batch": "", "policy": "", "autoscaling": ""}.get(group, "")
        model += f"{version[0].upper()}{version[1:]}{document['kind']}"
        known = client.deserialize(json.dumps(document), model, "application/json")
        assert client.sanitize_for_serialization(known) == document


@pytest.mark.parametrize("name", names())
def test_what_is_written_parses_to_the_objects(name):
    profile = load(name)
    written = [
        document
        for path, text in writer.write_set(profile)
        if path.endswith(".yaml") and "kustomization" not in path and "adapter-values" not in path
        for document in yaml.safe_load_all(text)
    ]
    built = [
        *writer.objects(profile),
        plain_yaml(alerts.alert_rules(profile, profile.deploy.metrics, targets.plan(profile, None))),
    ]
    assert sorted(map(json.dumps, written)) == sorted(map(json.dumps, built))


def test_weights_come_before_what_needs_them():
    profile = load("llama-3.1-405b-2x8h100-hdml")
    kinds = [o["kind"] for o in writer.objects(profile)]
    order = [
        "StorageClass",
        "Job",
        "PersistentVolume",
        "Service",
        "LeaderWorkerSet",
        "PodMonitoring",
        "HorizontalPodAutoscaler",
    ]
    assert [kind for kind in kinds if kind in order] == order
    assert len(weights.producer(profile, Options())) == 3


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("name", names())
def test_kustomize_renders_every_set(name, tmp_path):
    profile = load(name)
    writer.write_files(writer.write_set(profile), tmp_path)
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True
    )
    found = {(o["kind"], o["metadata"]["name"]) for o in yaml.safe_load_all(rendered.stdout)}
    assert found == {
        (o["kind"], o["metadata"]["name"]) for o in writer.objects(profile, options=Options(stage="serving"))
    }
