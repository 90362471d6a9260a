"""What a simulated fleet answers over HTTP: within a time and a size, and of the shape that `autoscale serve` gives it."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.error import HTTPError, URLError

from analysis.errors import BadInput, BadRun, printable
from analysis.files import json_value
from analysis.redact import redact
from analysis.sound import FASTEST, LATEST_S, within
from autoscale.kube.cluster import ClusterError, Observation, read_observation
from autoscale.observe.in_time import InTime

TIMEOUT_S = 10.0
MOST_BYTES = 64 << 20  # of one answer
LONGEST_LINE = 16 << 20  # of one observation: an API server takes objects of 1.5 MB
PIECE = 1 << 16
EXPECTED = "the address of `autoscale serve`"


class _Tcp(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(InTime, req)


class _TlsInTime(InTime, http.client.HTTPSConnection):
    pass


class _Tls(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_TlsInTime, req)


_opener = urllib.request.build_opener(_Tcp, _Tls)


def ask_fleet(url: str, path: str, timeout_s: float = TIMEOUT_S, method: str = "GET") -> Any:
    """The fleet's answer, open to be read. Raises ClusterError."""
    request = urllib.request.Request(url + path, method=method)  # noqa: S310  # the door looked at the scheme
    try:
        return _opener.open(request, timeout=timeout_s)
    except HTTPError as error:
        with error:
            said = error.read(1000).decode("utf-8", "replace")
        raise ClusterError(
            f"the fleet answered {error.code} to {path}: {printable(said, 200)}", status=error.code
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ClusterError(
            f"no fleet answers at {redact(url)}: {lost_because(error)}",
            next_step="start one with `autoscale serve`",
        ) from None


def lost_because(error: Exception) -> str:
    """Why a connection failed, in the words of the system."""
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead | ConnectionResetError):
        return "the connection broke in mid-answer"
    if isinstance(error, http.client.HTTPException | ValueError):
        return "its answer is not HTTP"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return printable(str(error), 100)


def fleet_json(url: str, path: str, method: str = "GET") -> Any:
    """The JSON that the fleet answers to `path`. Raises ClusterError, BadInput where it is none."""
    end_s = time.monotonic() + TIMEOUT_S
    pieces, size = [], 0
    with ask_fleet(url, path, TIMEOUT_S, method) as answer:
        try:
            while piece := answer.read1(PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > MOST_BYTES or time.monotonic() > end_s:
                    raise ClusterError(f"the fleet at {redact(url)} does not come to an end with {path}")
            if answer.length:
                raise http.client.IncompleteRead(b"".join(pieces), answer.length)
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"the fleet at {redact(url)} went away: {lost_because(error)}") from None
    try:
        return json_value(b"".join(pieces))
    except ValueError:
        raise not_a_fleet(url) from None


def not_a_fleet(url: str) -> BadInput:
    """That something else answers there."""
    return BadInput("this server is not a simulated fleet", value=redact(url), expected=EXPECTED)


def fleet_facts(url: str) -> dict[str, Any]:
    """What GET /fleet tells, each part of its type. Raises ClusterError, BadInput where it is no fleet's."""
    told = fleet_json(url, "/fleet")
    if not isinstance(told, dict) or not _sound(told):
        raise not_a_fleet(url)
    return told


def _sound(told: Mapping[str, Any]) -> bool:
    hpa, replicas = told.get("hpa"), told.get("replicas") or []
    return (
        within(told.get("speed"), FASTEST)
        and told["speed"] > 0
        and within(told.get("started_at"), LATEST_S)
        and within(told.get("control_s") or 0.0, LATEST_S)
        and isinstance(told.get("namespace") or "", str)
        and (not hpa or has_name(hpa))
        and isinstance(replicas, list)
        and all(_is_replica(one) for one in replicas)
    )


def _is_replica(one: object) -> bool:
    texts = (one.get("name"), one.get("metrics_url") or "") if isinstance(one, dict) else (None,)
    return all(isinstance(text, str) for text in texts)


def has_name(seen: object) -> bool:
    """Whether it is an object as Kubernetes has them, with a name."""
    metadata = seen.get("metadata") if isinstance(seen, dict) else None
    return isinstance(metadata, dict) and isinstance(metadata.get("name"), str)


def fleet_rows(answer: Any, url: str) -> Iterator[tuple[int, Observation]]:
    """(number, observation) of each whole line of an answer that stays open. Raises ClusterError for what is none."""
    while line := answer.readline(LONGEST_LINE):
        if not line.endswith(b"\n"):
            if len(line) < LONGEST_LINE:
                return  # cut off in the middle of a line
            raise ClusterError(f"the fleet at {redact(url)} sent a line of more than {LONGEST_LINE >> 20} MB")
        try:
            seen, row = read_observation(line, f"what the fleet at {redact(url)} sent")
        except BadRun as error:
            raise ClusterError(str(error)) from None
        number = row.get("seq")
        named = has_name(seen.object) or seen.resource in ("custommetrics", "logs")
        if type(number) is not int or not 0 <= number < 1 << 62 or not named:
            raise ClusterError(
                f"what the fleet at {redact(url)} sent is no observation with a number and a name"
            )
        yield number, seen
