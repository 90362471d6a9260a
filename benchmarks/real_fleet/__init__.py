"""Real servers as a fleet on this machine: scaled by the HPA's rules, with a real cold start, judged by `autoscale check`.

    python -m benchmarks.real_fleet --python .venv-vllm/bin/python     vLLM's CPU build, a model without weights: six minutes
    python -m benchmarks.real_fleet --simulated                        the same with simulated servers: no vLLM needed

Everything but the servers is what `autoscale serve` runs: the control loop (autoscale.sim.fleet.control with
autoscale.hpa), the router, and the observations that a check reads. A pod is a process: the kubelet of this package starts
it when the control loop has made its pod, says when it is healthy, and stops it. The gateway passes requests on and
answers back as they come; the HPA reads the servers' own /metrics.

The load has two rates. The second takes more than the HPA's target of one replica, and about all that one does while another
starts beside it. What the check says of the scale-out is put beside the
clock of the kubelet and the gateway, which the check does not see.
"""
