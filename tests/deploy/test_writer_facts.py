"""What each set must hold, field by field: the tables of the systems that are supported."""

import re
import shlex

import pytest

from autoscale.deploy import writer
from autoscale.hpa import HpaSpec
from autoscale.profiles import load, names

GROUPED = [name for name in names() if load(name).deploy.kind == "LeaderWorkerSet"]
DISKS = [name for name in names() if name.endswith("-hdml")]
BARE = [name for name in names() if name.endswith("-baremetal")]
TPU = "llama-3.1-70b-v6e8"


def one(name, kind, **options):
    found = [o for o in writer.objects(load(name), **options) if o["kind"] == kind]
    assert len(found) == 1, f"{name} has {len(found)} objects of kind {kind}"
    return found[0]


def leader(name):
    return one(name, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["leaderTemplate"]


def worker(name):
    return one(name, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["workerTemplate"]


def words(container):
    """Every word of a container's command line, `--flag=value` split in two."""
    line = " ".join([*container["command"], *container.get("args", [])])
    return [part for word in shlex.split(line.replace("&&", " && ")) for part in word.split("=", 1)]


def follows(container, flag):
    said = words(container)
    return said[said.index(flag) + 1]


# --- systems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "deepseek-r1-2x8h100",
        "deepseek-r1-2x8h100-hdml",
        "deepseek-r1-2x8h100-baremetal",
        "llama-3.1-405b-2x8h100",
        "llama-3.1-405b-2x8h100-hdml",
        "llama-3.1-405b-2x8h100-baremetal",
        TPU,
        "llama-3.1-8b-1xh100",
        "llama-3.1-8b-1xl4",
    ],
)
def test_every_supported_system_has_a_set(name):
    assert name in names()
    paths = [path for path, _ in writer.write_set(load(name))]
    assert {
        "README.md",
        "kustomization.yaml",
        "workload.yaml",
        "service.yaml",
        "hpa.yaml",
        "monitoring.yaml",
    } <= set(paths)


# --- HPA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hpa_name", "target", "value"),
    [
        *(
            (
                n,
                "lws-hpa",
                {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "vllm"},
                "5",
            )
            for n in GROUPED
        ),
        (TPU, "vllm-hpa", {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm-tpu"}, "10"),
        (
            "llama-3.1-8b-1xh100",
            "vllm-hpa",
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"},
            "5",
        ),
    ],
)
def test_the_hpa_scales_the_right_object_on_the_tutorials_target(name, hpa_name, target, value):
    hpa = one(name, "HorizontalPodAutoscaler")
    assert hpa["apiVersion"] == "autoscaling/v2"
    assert hpa["metadata"]["name"] == hpa_name
    assert hpa["spec"]["scaleTargetRef"] == target
    assert hpa["spec"]["minReplicas"] == 1
    assert hpa["spec"]["maxReplicas"] == (4 if "8b" in name else 2)
    [metric] = hpa["spec"]["metrics"]
    assert metric["type"] == "Pods"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": value}
    expected = (
        "vllm_num_requests_waiting"
        if name in BARE
        else "prometheus.googleapis.com|vllm:num_requests_waiting|gauge"
    )
    assert metric["pods"]["metric"] == {"name": expected}
    assert "behavior" not in hpa["spec"]


@pytest.mark.parametrize("name", names())
def test_the_simulator_reads_the_hpa_that_users_apply(name):
    spec = HpaSpec.from_manifest(one(name, "HorizontalPodAutoscaler"))
    assert spec.max_replicas == load(name).deploy.max_replicas


# --- monitoring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in names() if n not in BARE])
def test_pod_monitoring_selects_the_pods_that_serve(name):
    scraped = one(name, "PodMonitoring")
    labels, port = {"app": "vllm"}, 8000
    if name in GROUPED:
        labels, port = {"leaderworkerset.sigs.k8s.io/name": "vllm", "role": "leader"}, 8080
    elif name == TPU:
        labels = {"app": "vllm-tpu"}
    assert scraped["apiVersion"] == "monitoring.googleapis.com/v1"
    assert scraped["spec"]["selector"] == {"matchLabels": labels}
    assert scraped["spec"]["endpoints"] == [{"port": port, "path": "/metrics", "interval": "15s"}]
    assert "metricRelabeling" not in str(scraped)


@pytest.mark.parametrize("name", BARE)
def test_bare_metal_is_scraped_by_the_prometheus_operator(name):
    scraped = one(name, "PodMonitor")
    assert scraped["apiVersion"] == "monitoring.coreos.com/v1"
    assert scraped["spec"]["selector"] == {
        "matchLabels": {"leaderworkerset.sigs.k8s.io/name": "vllm", "role": "leader"}
    }
    [endpoint] = scraped["spec"]["podMetricsEndpoints"]
    [port] = leader(name)["spec"]["containers"][0]["ports"]
    assert (endpoint["port"], port["containerPort"]) == (port["name"], 8080)
    assert not [o for o in writer.objects(load(name)) if o["kind"] == "PodMonitoring"]


# --- what must agree -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_service_scraping_and_pods_agree_on_labels_port_and_namespace(name):
    profile = load(name)
    found = writer.objects(profile)
    kinds = {o["kind"]: o for o in found}
    service, scraped = kinds["Service"], kinds.get("PodMonitoring") or kinds["PodMonitor"]
    pod = leader(name) if name in GROUPED else kinds["Deployment"]["spec"]["template"]
    carried = dict(pod["metadata"]["labels"])
    if name in GROUPED:  # the controller adds this label to every pod of the set
        carried["leaderworkerset.sigs.k8s.io/name"] = kinds["LeaderWorkerSet"]["metadata"]["name"]
        assert worker(name)["metadata"]["labels"]["role"] != "leader"
    assert service["spec"]["selector"].items() <= carried.items()
    assert scraped["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
    assert service["spec"]["ports"][0]["targetPort"] == service["spec"]["ports"][0]["port"] == port
    assert int(follows(pod["spec"]["containers"][0], "--port")) == port
    namespaces = {o["metadata"].get("namespace") for o in found} - {None}
    assert namespaces == {profile.deploy.namespace}


# --- LeaderWorkerSet -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GROUPED)
def test_the_group_is_two_nodes_of_eight(name):
    lws = one(name, "LeaderWorkerSet")
    assert lws["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
    assert lws["metadata"]["name"] == "vllm"
    assert lws["spec"]["replicas"] == 1
    group = lws["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 2
    assert group["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert group["leaderTemplate"]["metadata"]["labels"]["role"] == "leader"
    for template in (group["leaderTemplate"], group["workerTemplate"]):
        spec = template["spec"]
        [container] = spec["containers"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
        assert spec["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
        memory = {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "15Gi"}}
        assert memory in spec["volumes"]
        assert {"name": "dshm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        secret = {"secretKeyRef": {"name": "hf-secret", "key": "hf_api_token"}}
        assert {"name": "HUGGING_FACE_HUB_TOKEN", "valueFrom": secret} in container["env"]
        assert {"name": "HF_TOKEN", "valueFrom": secret} in container["env"]


@pytest.mark.parametrize("name", GROUPED)
def test_leader_and_worker_join_by_the_serving_script(name):
    head, tail = leader(name)["spec"]["containers"][0], worker(name)["spec"]["containers"][0]
    line = head["command"][-1]
    assert "leader --ray_cluster_size=$(LWS_GROUP_SIZE)" in line
    assert "worker --ray_address=$(LWS_LEADER_ADDRESS)" in tail["command"][-1]
    assert line.index("--ray_cluster_size") < line.index("exec python3 -m vllm.entrypoints.openai.api_server")
    assert follows(head, "--port") == "8080"
    assert follows(head, "--tensor-parallel-size") == "8"
    assert follows(head, "--pipeline-parallel-size") == "2"
    assert re.findall(r"--ray_init_timeout=(\d+)", line) == re.findall(
        r"--ray_init_timeout=(\d+)", tail["command"][-1]
    )


@pytest.mark.parametrize("name", [n for n in GROUPED if n.startswith("deepseek")])
def test_deepseek_brings_its_own_code_and_a_short_context(name):
    said = words(leader(name)["spec"]["containers"][0])
    assert "--trust-remote-code" in said
    assert follows(leader(name)["spec"]["containers"][0], "--max-model-len") == "4096"


@pytest.mark.parametrize("name", GROUPED)
def test_requests_go_to_the_leaders(name):
    service = one(name, "Service")
    assert service["metadata"]["name"] == "vllm-leader"
    assert service["spec"]["type"] == "ClusterIP"
    assert service["spec"]["ports"][0]["port"] == 8080
    assert service["spec"]["selector"] == {"leaderworkerset.sigs.k8s.io/name": "vllm", "role": "leader"}


# --- Hyperdisk ML ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DISKS)
def test_the_disk_is_created_filled_and_mounted_read_only(name):
    kinds = [o["kind"] for o in writer.objects(load(name), options=writer.Options(stage="weights"))]
    assert kinds == ["StorageClass", "PersistentVolumeClaim", "Job"]
    storage, claim, job = writer.objects(load(name), options=writer.Options(stage="weights"))
    assert storage["metadata"]["name"] == "hyperdisk-ml"
    assert storage["provisioner"] == "pd.csi.storage.gke.io"
    assert storage["parameters"] == {"type": "hyperdisk-ml", "provisioned-throughput-on-create": "2400Mi"}
    assert storage["volumeBindingMode"] == "WaitForFirstConsumer"
    assert claim["metadata"]["name"] == "producer-pvc"
    assert claim["spec"]["storageClassName"] == "hyperdisk-ml"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert claim["spec"]["resources"]["requests"] == {"storage": "800Gi"}
    pod = job["spec"]["template"]["spec"]
    line = pod["containers"][0]["command"][-1]
    assert "*.safetensors" in line
    assert "*.json" in line
    assert ("*.py" in line) == name.startswith("deepseek")
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert len(terms) == 1, "terms are ORed: both expressions belong in one"
    keys = [expression["key"] for expression in terms[0]["matchExpressions"]]
    assert keys == ["cloud.google.com/machine-family", "topology.kubernetes.io/zone"]


@pytest.mark.parametrize("name", DISKS)
def test_the_static_volume_is_bound_to_its_claim_and_zone(name):
    volume = one(name, "PersistentVolume")["spec"]
    claim = one(name, "PersistentVolumeClaim", options=writer.Options(stage="serving"))
    assert volume["accessModes"] == claim["spec"]["accessModes"] == ["ReadOnlyMany"]
    assert volume["claimRef"] == {"namespace": "default", "name": "hdml-static-pvc"}
    assert claim["metadata"]["name"] == "hdml-static-pvc"
    assert claim["spec"]["volumeName"] == one(name, "PersistentVolume")["metadata"]["name"]
    assert volume["csi"]["readOnly"] is True
    assert volume["csi"]["driver"] == "pd.csi.storage.gke.io"
    [term] = volume["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["key"] == "topology.gke.io/zone"
    for template in (leader(name), worker(name)):
        assert {"name": "weights", "mountPath": "/models", "readOnly": True} in template["spec"][
            "containers"
        ][0]["volumeMounts"]
    assert follows(leader(name)["spec"]["containers"][0], "--model") == "/models"
    assert follows(leader(name)["spec"]["containers"][0], "--served-model-name") == load(name).model.id


# --- bare metal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BARE)
def test_bare_metal_names_its_kubeconfig_its_registry_and_its_adapter(name):
    files = dict(writer.write_set(load(name)))
    readme = files["README.md"]
    commands = [line for line in readme.splitlines() if line.lstrip().startswith(("kubectl ", "helm "))]
    assert commands
    assert all("--kubeconfig CLUSTER_KUBECONFIG" in line for line in commands)
    assert "docker push registry.example.com/" in readme
    assert "gcloud" not in readme
    assert "vllm:num_requests_waiting" in files["prometheus-adapter-values.yaml"]


# --- TPU -------------------------------------------------------------------------------------------------------------


def test_the_tpu_deployment_matches_its_slice():
    deployment = one(TPU, "Deployment")
    assert deployment["metadata"]["name"] == "vllm-tpu"
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"] == {"app": "vllm-tpu"}
    assert template["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-topology": "2x4",
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
    }
    [container] = template["spec"]["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": "8"}
    assert container["ports"][0]["containerPort"] == 8000
    assert {
        "--tensor-parallel-size=8",
        "--max-model-len=4096",
        "--model=meta-llama/Llama-3.1-70B",
        "--download-dir=/data",
        "--max-num-batched-tokens=512",
        "--max-num-seqs=128",
    } <= set(container["args"])
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert env["VLLM_USE_V1"] == "1"
    assert "HUGGING_FACE_HUB_TOKEN" in env


def test_gcsfuse_is_mounted_as_the_tutorial_tuned_it():
    template = one(TPU, "Deployment")["spec"]["template"]
    assert template["metadata"]["annotations"] == {
        "gke-gcsfuse/volumes": "true",
        "gke-gcsfuse/cpu-limit": "0",
        "gke-gcsfuse/memory-limit": "0",
        "gke-gcsfuse/ephemeral-storage-limit": "0",
    }
    account = one(TPU, "ServiceAccount", options=writer.Options(checker=False))
    assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert volumes["gke-gcsfuse-cache"]["emptyDir"] == {"medium": "Memory"}
    assert "dshm" in volumes
    [csi] = [volume["csi"] for volume in volumes.values() if "csi" in volume]
    assert csi["driver"] == "gcsfuse.csi.storage.gke.io"
    said = set(csi["volumeAttributes"]["mountOptions"].split(","))
    assert said == {
        "implicit-dirs",
        "file-cache:enable-parallel-downloads:true",
        "file-cache:parallel-downloads-per-file:100",
        "file-cache:max-parallel-downloads:-1",
        "file-cache:download-chunk-size-mb:10",
        "file-cache:max-size-mb:-1",
    }
    mounted = {
        mount["name"]: mount["mountPath"] for mount in template["spec"]["containers"][0]["volumeMounts"]
    }
    [name] = [volume["name"] for volume in volumes.values() if "csi" in volume]
    assert mounted[name] == "/data"


@pytest.mark.parametrize(
    ("choice", "path"),
    [("seeded", "/xla-cache"), ("shared", "/data"), ("off", None)],
    ids=["a private copy", "the tutorial's shared path", "no cache"],
)
def test_the_compile_cache_is_private_to_a_replica_unless_asked_otherwise(choice, path):
    spec = one(TPU, "Deployment", options=writer.Options(xla_cache=choice))["spec"]["template"]["spec"]
    env = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}
    assert env.get("VLLM_XLA_CACHE_PATH") == path
    private = [volume["name"] for volume in spec["volumes"] if volume.get("emptyDir") == {}]
    assert private == (["xla-cache"] if choice == "seeded" else [])
    assert ("initContainers" in spec) == (choice == "seeded")


def test_the_tpu_service_is_a_load_balancer_and_its_pool_scales_from_one_to_two():
    service = one(TPU, "Service")
    assert service["metadata"]["name"] == "vllm-service"
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["ports"][0]["port"] == 8000
    readme = dict(writer.write_set(load(TPU)))["README.md"]
    for said in (
        "--machine-type=ct6e-standard-8t",
        "--total-min-nodes=1 --total-max-nodes=2",
        "1.31.2-gke.1115000",
        "GcsFuseCsiDriver",
        "roles/storage.objectUser",
    ):
        assert said in readme
