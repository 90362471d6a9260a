"""The public tutorials' manifests, rebuilt from their fields: as printed they show the traps, corrected they pass."""

import pytest
import yaml

from autoscale.lint.linter import lint_files

GPU = """
# Source: tutorial/templates/vllm.yaml
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: vllm
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    restartPolicy: RecreateGroupOnPodRestart
    leaderTemplate:
      metadata:
        labels:
          role: leader
      spec:
        nodeSelector:
          cloud.google.com/gke-accelerator: nvidia-h100-80gb
        containers:
        - name: vllm-leader
          image: vllm/vllm-openai:v0.8.5
          env:
          - name: HUGGING_FACE_HUB_TOKEN
            valueFrom:
              secretKeyRef: {name: hf-secret, key: hf_api_token}
          command:
          - sh
          - -c
          - "/vllm-workspace/ray_init.sh leader --ray_cluster_size=$(LWS_GROUP_SIZE);
            python3 -m vllm.entrypoints.openai.api_server --port 8080 --model meta-llama/Llama-3.1-405B-Instruct
            --tensor-parallel-size 8 --pipeline-parallel-size 2"
          resources:
            limits: {nvidia.com/gpu: "8"}
          ports:
          - containerPort: 8080
          readinessProbe:
            tcpSocket: {port: 8080}
            initialDelaySeconds: 15
            periodSeconds: 10
          volumeMounts:
          - {mountPath: /dev/shm, name: dshm}
        volumes:
        - name: dshm
          emptyDir: {medium: Memory, sizeLimit: 15Gi}
    workerTemplate:
      spec:
        nodeSelector:
          cloud.google.com/gke-accelerator: nvidia-h100-80gb
        containers:
        - name: vllm-worker
          image: vllm/vllm-openai:v0.8.5
          command:
          - sh
          - -c
          - "/vllm-workspace/ray_init.sh worker --ray_address=$(LWS_LEADER_ADDRESS)"
          resources:
            limits: {nvidia.com/gpu: "8"}
          volumeMounts:
          - {mountPath: /dev/shm, name: dshm}
        volumes:
        - name: dshm
          emptyDir: {medium: Memory, sizeLimit: 15Gi}
---
apiVersion: v1
kind: Service
metadata:
  name: vllm-leader
spec:
  type: ClusterIP
  selector:
    leaderworkerset.sigs.k8s.io/name: vllm
    role: leader
  ports:
  - {name: http, port: 8080, protocol: TCP, targetPort: 8080}
---
apiVersion: monitoring.googleapis.com/v1
kind: PodMonitoring
metadata:
  name: vllm-pod-monitoring
spec:
  selector:
    matchLabels:
      leaderworkerset.sigs.k8s.io/name: vllm
      role: leader
  endpoints:
  - {path: /metrics, port: 8080, interval: 15s}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: lws-hpa
spec:
  minReplicas: 1
  maxReplicas: 2
  metrics:
  - type: Pods
    pods:
      metric:
        name: prometheus.googleapis.com|vllm:num_requests_waiting|gauge
      target:
        type: AverageValue
        averageValue: 5
  scaleTargetRef:
    apiVersion: leaderworkerset.x-k8s.io/v1
    kind: LeaderWorkerSet
    name: vllm
"""
LOAD = """\
#!/bin/bash
N=$1
export vllm_service=$(kubectl get service vllm-service -o jsonpath='{.status.loadBalancer.ingress[0].ip}')
for i in $(seq 1 $N); do
  while true; do
    curl http://$vllm_service:8000/v1/completions -H "Content-Type: application/json" \\
      -d '{"model": "meta-llama/Llama-3.1-70B", "prompt": "Write a story about san francisco", "max_tokens": 1000}'
  done &
done
wait
"""
PRODUCER = """
apiVersion: batch/v1
kind: Job
metadata:
  name: producer-job
spec:
  template:
    spec:
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions:
              - {key: cloud.google.com/machine-family, operator: In, values: [c3]}
            - matchExpressions:
              - {key: topology.kubernetes.io/zone, operator: In, values: [us-east4-a]}
      restartPolicy: Never
      containers:
      - name: copy
        image: huggingface/downloader:0.17.3
        command: [huggingface-cli, download, deepseek-ai/DeepSeek-R1]
"""
TPU = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: vllm-tpu
spec:
  replicas: 1
  selector:
    matchLabels: {app: vllm-tpu}
  template:
    metadata:
      labels: {app: vllm-tpu}
      annotations:
        gke-gcsfuse/volumes: "true"
        gke-gcsfuse/cpu-limit: "0"
    spec:
      serviceAccountName: KSA_NAME
      nodeSelector:
        cloud.google.com/gke-tpu-topology: 2x4
        cloud.google.com/gke-tpu-accelerator: tpu-v6e-slice
      containers:
      - name: vllm-tpu
        image: docker.io/vllm/vllm-tpu:v0.8.5
        command: [python3, -m, vllm.entrypoints.openai.api_server]
        args:
        - --host=0.0.0.0
        - --port=8000
        - --tensor-parallel-size=8
        - --max-model-len=4096
        - --model=meta-llama/Llama-3.1-70B
        - --download-dir=/data
        - --max-num-batched-tokens=512
        - --max-num-seqs=128
        env:
        - {name: VLLM_XLA_CACHE_PATH, value: /data}
        - {name: VLLM_USE_V1, value: "1"}
        ports:
        - containerPort: 8000
        resources:
          limits: {google.com/tpu: 8}
        readinessProbe:
          tcpSocket: {port: 8000}
          initialDelaySeconds: 15
          periodSeconds: 10
        volumeMounts:
        - {name: gcs-fuse-csi-ephemeral, mountPath: /data}
        - {name: dshm, mountPath: /dev/shm}
      volumes:
      - name: gke-gcsfuse-cache
        emptyDir: {medium: Memory}
      - name: dshm
        emptyDir: {medium: Memory}
      - name: gcs-fuse-csi-ephemeral
        csi:
          driver: gcsfuse.csi.storage.gke.io
          volumeAttributes: {bucketName: BUCKET, mountOptions: implicit-dirs}
---
apiVersion: v1
kind: Service
metadata:
  name: vllm-service
spec:
  type: LoadBalancer
  selector: {app: vllm-tpu}
  ports:
  - {name: http, protocol: TCP, port: 8000, targetPort: 8000}
---
apiVersion: monitoring.googleapis.com/v1
kind: PodMonitoring
metadata:
  name: vllm-pod-monitoring
spec:
  selector:
    matchLabels: {app: vllm-tpu}
  endpoints:
  - {path: /metrics, port: 8000, interval: 15s}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: vllm-hpa
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: vllm-tpu}
  minReplicas: 1
  maxReplicas: 2
  metrics:
  - type: Pods
    pods:
      metric: {name: "prometheus.googleapis.com|vllm:num_requests_waiting|gauge"}
      target: {type: AverageValue, averageValue: 10}
"""
POOL = """
apiVersion: container.cnrm.cloud.google.com/v1beta1
kind: ContainerNodePool
metadata:
  name: gpu-nodepool
spec:
  nodeCount: 2
  nodeConfig:
    machineType: a3-highgpu-8g
"""


def written(directory, **files):
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return lint_files([directory])


def found(report, severity):
    return {finding.code for finding in report.findings if finding.severity == severity}


def test_the_gpu_tutorial_as_printed_shows_its_traps(tmp_path):
    report = written(tmp_path, vllm__yaml=GPU, load__sh=LOAD, producer__yaml=PRODUCER, pool__yaml=POOL)
    assert found(report, "error") == {
        "load-wrong-service",
        "load-wrong-model",
        "node-terms-ored",
        "nodes-too-few",
    }
    assert found(report, "warning") == {
        "fixed-prompt",
        "readiness-tcp",
        "no-drain",
        "grace-too-short",
        "ray-init-timeout",
        "window-below-cold-start",
    }
    calls = next(f for f in report.findings if f.code == "load-wrong-service")
    assert "vllm-leader:8080" in calls.fix
    assert calls.file.endswith("load.sh")


def test_the_gpu_tutorial_corrected_has_no_error(tmp_path):
    load = LOAD.replace("vllm-service", "vllm-leader").replace(":8000", ":8080")
    load = load.replace("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-405B-Instruct")
    load = load.replace("Write a story about san francisco", "'$RANDOM'")
    jobs = yaml.safe_load(PRODUCER)
    required = jobs["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = required["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    terms[0]["matchExpressions"] += terms.pop()["matchExpressions"]
    pool = POOL.replace("nodeCount: 2", "autoscaling: {totalMinNodeCount: 2, totalMaxNodeCount: 4}")
    gpu = GPU.replace("tcpSocket: {port: 8080}", "httpGet: {path: /health, port: 8080}")
    report = written(
        tmp_path, vllm__yaml=gpu, load__sh=load, producer__yaml=yaml.safe_dump(jobs), pool__yaml=pool
    )
    assert report.errors == 0
    assert found(report, "warning") == {
        "no-drain",
        "grace-too-short",
        "ray-init-timeout",
        "window-below-cold-start",
    }


def test_the_tpu_tutorial_as_printed_and_with_its_cache_made_safe(tmp_path):
    report = written(tmp_path, tpu__yaml=TPU, load__sh=LOAD)
    assert found(report, "error") == {"placeholder"}  # KSA_NAME; the load script fits: it is the TPU guide's
    assert {"shared-xla-cache", "readiness-tcp", "no-drain", "fixed-prompt"} <= found(report, "warning")
    safe = TPU.replace("        - {name: VLLM_XLA_CACHE_PATH, value: /data}\n", "")
    assert "shared-xla-cache" not in found(written(tmp_path, tpu__yaml=safe), "warning")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("--port 8080", "--port 8000", "scrape-port"),
        ("--port 8080", "--port=9000", "service-port"),
        ("python3 -m vllm.entrypoints.openai.api_server --port 8080", "vllm serve --port 8001", "probe-port"),
        ("--pipeline-parallel-size 2", "-pp 4", "parallelism-chips"),
        ("v0.8.5\n          env", "v0.9.0\n          env", "worker-differs"),
        ("averageValue: 5", "averageValue: 0", "target-never-fires"),
    ],
)
def test_flags_are_read_from_shell_scripts_in_every_form(old, new, code, tmp_path):
    assert old in GPU
    assert code in found(written(tmp_path, vllm__yaml=GPU.replace(old, new)), "error")
