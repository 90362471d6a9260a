"""What a Prometheus says beside its results: errors and warnings, in words that a terminal and a file can hold."""

from __future__ import annotations

import json
import re
from typing import Any

import requests

from analysis.errors import printable

_FAILED = re.compile(rb'"status"\s*:\s*"error"')


def bad_words(response: requests.Response) -> str:
    """What the server said beside a bad status, HTTP's or its API's: its error, or the first words of a text; else empty."""
    if response.status_code < 400 and not _FAILED.search(response.content[:1000] + response.content[-1000:]):
        return ""
    content = _object(response.content)
    if response.status_code < 400 and content.get("status") != "error":
        return ""
    said = str(content["error"]) if "error" in content else ""
    if not content:
        text = response.content[:200].decode("utf-8", "replace")
        said = "" if "<" in text else text.strip()
    return f": {printable(said, 160)}" if said else ""


def warnings_of(body: bytes) -> set[str]:
    """Warnings of an answer: parts that a server of many could not reach."""
    ends = body[:1000] + body[-4000:]  # the result, which may be long, is not read for them
    found = set()
    if b'"warnings"' in ends:
        told = _object(body).get("warnings")
        found = {printable(str(one), 200) for one in told} if isinstance(told, list) else set()
    if re.search(rb'"isPartial"\s*:\s*true', ends):
        found.add("the answer is partial: some storage nodes did not answer")
    return found


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object in an answer; empty when it is none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
