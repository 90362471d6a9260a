"""Rules on what sends requests: scripts, Jobs and ConfigMaps whose service, port, model or prompt is wrong."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from autoscale.kube.objects import items, mapping
from autoscale.lint import shell
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import Path, VllmServer
from autoscale.lint.rules.service import serving

_URL = re.compile(
    r"(?P<scheme>https?://)(?P<host>[\w.-]+|\$\{?\w+\}?|\$\(\w+\)|\{\w+\})(?::(?P<port>\d+))?(?P<path>/[\w/.-]*)?"
)
_KUBECTL = re.compile(r"kubectl\b[^\n|;&]*?\bget\s+(?:svc|services?)(?:\s+|/)(?P<name>[a-z][a-z0-9-]*)")
_FORWARD = re.compile(
    r"port-forward\b[^\n]*?\b(?:svc|services?)/(?P<name>[a-z][a-z0-9-]*)\s+(?:\d+:)?(?P<port>\d+)"
)
_ASSIGNED = re.compile(r"(?:^|[\s;])(?:export\s+|local\s+)?(\w+)=\"?\$\((?P<command>[^\n]*)")
_MODEL = re.compile(r"""\\?["']model\\?["']\s*:\s*\\?["']([^"'\\]+)""")
_PROMPT = re.compile(r"""\\?["'](?:prompt|content|text)\\?["']\s*:\s*(\\?["'])(?P<text>.*?)\1""", re.S)
_REPEATED = re.compile(
    r"\bwhile\b|\bfor\b|\bseq\b|\bxargs\b|\bparallel\b|\bwatch\b|\brange\(|\b(hey|wrk2?|ab|vegeta|k6|oha|siege|bombardier|locust)\b"
)
_OPENAI = re.compile(r"^/(v1(/|$)|generate|health|metrics|tokenize|ping)")
_CHANGES = re.compile(r"\$|\{\w*\}|%[sd]|RANDOM|uuid", re.I)
TARGET_FLAGS = (
    "host",
    "base-url",
    "url",
    "target",
    "endpoint",
    "api-base",
    "backend-url",
    "server-url",
    "openai-api-base",
)
TARGET_VARIABLES = re.compile(
    r"(OPENAI_(API_BASE|BASE_URL)|VLLM_(URL|HOST|ENDPOINT|SERVICE)|TARGET(_URL|_HOST)?|BASE_URL|LOCUST_HOST)$"
)
LOCAL = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104  # compared with, never bound


@dataclass(frozen=True)
class Load:
    """A text that sends requests: where it stands, in which namespace it runs, flags and variables around it."""

    source: Located
    path: Path
    text: str
    namespace: str
    flags: dict[str, str]
    env: dict[str, str]


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on everything in the set that calls a model server."""
    servers = facts.servers
    for load in _loads(facts):
        hit: list[VllmServer] = []
        judged: set[tuple[str, str | None]] = set()
        for host, port in _targets(load):
            if (host, port) in judged:
                continue
            judged.add((host, port))
            found, behind = yield from _reach(load, host, port, facts)
            hit += behind if found else []
        yield from _model(load, hit or servers)
        yield from _prompt(load)


def _loads(facts: Facts) -> Iterator[Load]:
    serving_at = {(id(server.container)) for server in facts.servers}
    for located in facts.of("Script"):
        yield Load(located, ("text",), str(located.object.get("text") or ""), "", {}, {})
    for located in facts.of("ConfigMap"):
        for key, text in mapping(located.object.get("data")).items():
            if isinstance(text, str) and len(text) < 1_000_000:
                yield Load(located, ("data", str(key)), text, located.namespace, {}, {})
    for template in facts.templates:
        for path, container in template.containers():
            if id(container) in serving_at or template.role == "worker":
                continue
            argv = shell.words(container)
            env = shell.environment(container)
            flags: dict[str, str] = {}
            for command in facts.commands(template, container):
                flags |= shell.flags(command)
            if argv or env:
                yield Load(
                    template.owner,
                    (*path, "args" if container.get("args") else "command"),
                    "\n".join(argv),
                    template.owner.namespace,
                    flags,
                    env,
                )


def _targets(load: Load) -> Iterator[tuple[str, str | None]]:
    """(host, port) of every call to a model server in a text; the host may be a Service's name that kubectl asked for."""
    text = shell.expand(load.text, load.env)
    variables = {m[1]: k["name"] for m in _ASSIGNED.finditer(text) if (k := _KUBECTL.search(m["command"]))}
    for match in _FORWARD.finditer(text):
        yield match["name"], match["port"]
    named = False
    for match in _URL.finditer(text):
        if not _OPENAI.match(match["path"] or ""):
            continue
        host = match["host"].strip("${}()")
        if match["host"][0] in "${":
            host = variables.get(host, "")
        if host:
            named = True
            yield host, match["port"]
    if not named and _calls_openai(text):
        for match in _KUBECTL.finditer(text):
            yield match["name"], None
    for name in TARGET_FLAGS:
        value = shell.expand(load.flags.get(name, ""), load.env)
        if found := _URL.match(value):
            yield found["host"], found["port"]
        elif (
            name == "host"
            and re.fullmatch(r"[a-z][a-z0-9.-]*", value)
            and load.flags.get("port", "").isdigit()
        ):
            yield value, load.flags["port"]
    for name, value in load.env.items():
        if TARGET_VARIABLES.search(name) and (found := _URL.match(value)):
            yield found["host"], found["port"]


def _calls_openai(text: str) -> bool:
    return re.search(r"/v1/(chat/)?completions", text) is not None


def _reach(
    load: Load, host: str, port: str | None, facts: Facts
) -> Generator[Finding, None, tuple[bool, list[VllmServer]]]:
    """Findings on one address; returns (whether a Service was found, the servers behind it)."""
    if host in LOCAL or re.fullmatch(r"[\d.]+", host) or "$" in host:
        return False, []
    name, _, rest = host.partition(".")
    spaces = {located.namespace for located in facts.objects}
    parts = rest.split(".")
    in_cluster = not rest or "svc" in parts or rest in spaces
    if not in_cluster:
        return False, []
    namespace = parts[0] if rest and parts[0] != "svc" else load.namespace
    services = facts.by_name("Service", name)
    candidates = [s for s in services if s.namespace == namespace] if namespace else services
    own = (
        [s for s in facts.of("Service") if any(serving(facts, s.name, s.namespace)[1])][:3]
        if len(facts.servers) < 50
        else []
    )
    if not candidates:
        if services:
            yield load.source.finding(
                "error",
                "load-wrong-service",
                load.path,
                f"{host} is asked for in namespace {namespace}; Service {name} is in {services[0].namespace}.",
                "The name does not resolve: no request arrives.",
                f"Call {name}.{services[0].namespace}.",
            )
        elif facts.servers and "Service" not in facts.unseen and not facts.headless(name):
            right = [f"{s.name}:{_first_port(s)}" for s in own]
            yield load.source.finding(
                "error",
                "load-wrong-service",
                load.path,
                f"There is no Service {name} among the objects.",
                "The name does not resolve: the load test sends nothing.",
                f"Call {right[0]}." if right else "Add the Service, or call one that exists.",
            )
        return False, []
    service = candidates[0]
    ports = {str(mapping(entry).get("port")) for entry in items(service.spec.get("ports"))}
    asked = port or "80"
    behind = serving(facts, service.name, service.namespace)[1]
    if behind and ports and asked not in ports and (port or load.text.count("http")):
        yield load.source.finding(
            "error",
            "load-wrong-port",
            load.path,
            f"Port {asked} of Service {service.name} is called; it has {', '.join(sorted(ports))}.",
            "The connection fails: no request arrives.",
            f"Call {service.name}:{sorted(ports)[0]}.",
        )
    return True, behind


def _first_port(service: Located) -> str:
    return str(mapping(next(iter(items(service.spec.get("ports"))), {})).get("port", ""))


def _model(load: Load, servers: list[VllmServer]) -> Iterator[Finding]:
    asked = (
        [m[1] for m in _MODEL.finditer(load.text)]
        if _calls_openai(load.text) or load.source.kind != "ConfigMap"
        else []
    )
    if load.flags.get("model") and any(load.flags.get(name) for name in TARGET_FLAGS):
        asked.append(
            load.flags["served-model-name"] if load.flags.get("served-model-name") else load.flags["model"]
        )
    if not asked:
        return
    known = {name for server in servers for name in server.served}
    unclear = not servers or any(not server.served for server in servers)
    for model in dict.fromkeys(asked):
        model = shell.expand(model, load.env)
        if unclear or model in known or _CHANGES.search(model):
            continue
        yield load.source.finding(
            "error",
            "load-wrong-model",
            load.path,
            f"Model {model} is asked for; {', '.join(sorted(known))} is served.",
            "Every request gets 404: the load test measures errors.",
            f"Ask for {sorted(known)[0]}.",
        )


def _prompt(load: Load) -> Iterator[Finding]:
    if not _calls_openai(load.text) or not _REPEATED.search(load.text):
        return
    prompts = [m["text"] for m in _PROMPT.finditer(load.text) if m["text"].strip()]
    fixed = [text for text in prompts if not _CHANGES.search(text)]
    if fixed and len(fixed) == len(prompts) and len(set(fixed)) == 1:
        shown = fixed[0] if len(fixed[0]) < 40 else fixed[0][:37] + "..."
        yield load.source.finding(
            "warning",
            "fixed-prompt",
            load.path,
            f'Every request sends the prompt "{shown}".',
            "The prefix cache answers: measured capacity is too high, the queue grows too little.",
            "Send different prompts, as loadgen/ does.",
        )
