"""One resource listed, then watched from the version of the list. What goes wrong on the way:

watch ends, connection drops    watch again from the last version; `gap` says how late changes were seen
410 Gone                        list again; differences become ADDED, MODIFIED and DELETED; `gap` says what is lost
429, 5xx, no answer             wait (Retry-After, or 0.5 s doubling to 5 s, jittered) and go on
403                             `gap` names it once; tried again at once, then up to a minute apart: a server that just
                                started refuses for a moment, and a late grant is seen
404                             as 403, but every minute where the kind was never seen: a CRD that is not installed
"""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from autoscale.kube.api import DROPPED
from autoscale.kube.cluster import MISSHAPEN, ClusterError, Observation, slim
from autoscale.kube.kinds import resource_path
from autoscale.kube.objects import Object

WATCH_S = 60  # a watch is renewed this often, so that a dead connection is noticed soon
HIDDEN_RETRY_S = 60.0
LATE_WORTH_TELLING_S = 2.0
LONGEST_WAIT_S = 5.0  # after an outage nobody is blind for longer


class Watched(Protocol):
    """What a watcher needs from the cluster."""

    def now_s(self) -> float:
        """The observer's clock, unix s."""

    def request(self, method: str, path: str, query: Any = ()) -> Any:
        """One request; the open response."""
        ...

    def list_with_version(self, resource: str, namespace: str | None) -> tuple[list[Object], str]:
        """The objects and the version from which a watch continues."""
        ...

    def log_lines(self, namespace: str, pod: str, container: str) -> Any:
        """The lines of a container's log that end a start-up phase."""
        ...

    def clock_news(self) -> Observation | None:
        """The clock difference, when it is known noticeably better than last told."""
        ...


class Watcher(threading.Thread):
    """Lists and watches one resource for ever; hands observations to a queue."""

    def __init__(
        self,
        cluster: Watched,
        resource: str,
        namespace: str,
        found: queue.Queue[Observation],
        done: Callable[[], bool],
    ) -> None:
        super().__init__(name=f"watch-{resource}", daemon=True)
        self.cluster, self.resource, self.namespace, self.found, self.done = (
            cluster,
            resource,
            namespace,
            found,
            done,
        )
        self.version: str | None = None
        self.known: dict[str, Object] = {}  # key -> object as last seen (for events: its version only)
        self.seen_once = False
        self.blind_since_s: float | None = None
        self.reason = ""
        self.failures = 0
        self.expired = False
        self.hidden = False
        self.gap_told = False  # that it began
        self.resumed_from_s: float | None = (
            None  # the watch goes on after this gap, unless its version expired
        )
        self.read_logs: set[str] = set()
        self._answer: Any = None

    def run(self) -> None:
        while not self.done():
            try:
                if self.version is None:
                    self._list()
                self._watch()
            except ClusterError as error:
                self._blind(str(error))
                self._wait_after(error)
            except DROPPED as error:
                self._blind(f"the connection dropped: {error}")
                self._wait(self._backoff_s())
            except (
                *MISSHAPEN,
                RecursionError,
            ) as error:  # of a proxy on the way, say: nobody else would notice
                self._blind(f"the answer was not an API server's: {error!r:.100}")
                self.version = None
                self._wait(self._backoff_s())
            self._still_blind()

    def interrupt(self) -> None:
        """Make a blocked read return."""
        answer = self._answer
        if answer is not None:
            with suppress(*DROPPED, AttributeError):
                answer.shutdown()

    def _list(self) -> None:
        objects, version = self.cluster.list_with_version(self.resource, self.namespace)
        self._seeing_again(lost=True)
        current = {_key(o): o for o in objects}
        for key in [key for key in self.known if key not in current]:
            gone = self.known.pop(key)
            if self.resource != "events":  # events expire: nothing happened
                self._tell("DELETED", gone)
        for key, found in current.items():
            before = self.known.get(key)
            if before is None or _version(before) != _version(found):
                self._tell("ADDED" if before is None else "MODIFIED", found)
        self.version, self.seen_once = version, True

    def _watch(self) -> None:
        query = [
            ("watch", "true"),
            ("resourceVersion", str(self.version)),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(WATCH_S + random.randint(0, 10))),
        ]
        answer = self.cluster.request("get", resource_path(self.resource, self.namespace), query)
        self._answer = answer
        self._seeing_again(lost=False)
        heard_s, opened_s, lines = self.cluster.now_s(), time.monotonic(), 0
        try:
            for line in _lines(answer):
                lines += 1
                heard_s = self.cluster.now_s()
                self._event(json.loads(line))
                self.failures, self.expired = 0, False
            if not lines and time.monotonic() - opened_s < 1.0:
                self._wait(self._backoff_s())  # it ends watches at once: it is not asked in a tight loop
        except Exception as error:
            from urllib3.exceptions import HTTPError

            if not isinstance(error, (HTTPError, *DROPPED)):
                raise
            if not self.done():
                self._blind(f"the connection dropped: {error}", heard_s)
                self._wait(self._backoff_s())
        finally:
            self._answer = None
            with suppress(*DROPPED):
                answer.close()

    def _event(self, event: Object) -> None:
        kind, found = event["type"], event["object"]
        if kind == "ERROR":
            self.blind_since_s = self.resumed_from_s
            raise ClusterError(
                f"the watch of {self.resource} ended: {found.get('message')}", status=found.get("code")
            )
        if kind != "BOOKMARK":
            self._tell(kind, slim(self.resource, found))
        self.version = _version(found) or self.version
        self.resumed_from_s = None

    # --- telling ---

    def _tell(self, kind: str, found: Object) -> None:
        key = _key(found)
        if kind == "DELETED":
            self.known.pop(key, None)
        else:
            self.known[key] = (
                {"metadata": {"resourceVersion": _version(found)}} if self.resource == "events" else found
            )
            if self.resource == "events" and len(self.known) > 20_000:
                self.known.pop(next(iter(self.known)))
        self._put(Observation(self.cluster.now_s(), self.resource, kind, found))
        if news := self.cluster.clock_news():
            self._put(news)
        if self.resource == "pods":
            self._read_log(found)

    def _read_log(self, pod: Object) -> None:
        """Once a pod got ready, its log tells weights and compile apart; without the right to read it, they stay one."""
        name, ready = pod["metadata"]["name"], _is_ready(pod)
        if not ready or not self.seen_once or pod["metadata"].get("uid") in self.read_logs:
            return
        self.read_logs.add(str(pod["metadata"].get("uid")))
        with suppress(ClusterError, *DROPPED):
            lines = self.cluster.log_lines(self.namespace, name, pod["spec"]["containers"][0]["name"])
            if lines:
                self._put(Observation(self.cluster.now_s(), "logs", "READ", {"pod": name, "lines": lines}))

    def _blind(self, reason: str, since_s: float | None = None) -> None:
        self.reason = reason
        if self.blind_since_s is None:
            self.blind_since_s = self.cluster.now_s() if since_s is None else since_s

    def _seeing_again(self, *, lost: bool) -> None:
        """Say what was not seen, now that the server answers again."""
        since_s, self.blind_since_s = self.blind_since_s, None
        told, self.gap_told, self.hidden = self.gap_told, False, False
        now_s = self.cluster.now_s()
        self.resumed_from_s = None if lost else since_s
        if since_s is None:
            return
        if told or (self.seen_once and (lost or now_s - since_s >= LATE_WORTH_TELLING_S)):
            self._gap(since_s, now_s, lost=lost)

    def _still_blind(self) -> None:
        """Say once that it has not been seen for a while: the watch may end before it is seen again."""
        since_s = self.blind_since_s
        if since_s is None or self.gap_told or not self.seen_once:
            return
        if self.cluster.now_s() - since_s >= LATE_WORTH_TELLING_S:
            self._gap(since_s, None, lost=True)

    def _gap(self, from_s: float, to_s: float | None, *, lost: bool, status: int | None = None) -> None:
        """Tell a gap; to_s None: it lasts."""
        facts: dict[str, Any] = {
            "resource": self.resource,
            "from_s": from_s,
            "to_s": to_s,
            "lost": lost,
            "reason": self.reason,
        }
        self.gap_told = to_s is None
        self._put(
            Observation(self.cluster.now_s(), "gap", "MISSED", facts | ({"status": status} if status else {}))
        )

    def _put(self, seen: Observation) -> None:
        while not self.done():
            with suppress(queue.Full):
                self.found.put(seen, timeout=0.5)
                return

    # --- waiting ---

    def _wait_after(self, error: ClusterError) -> None:
        if error.status == 410:
            self.version = None
            if self.expired:  # a version that was listed a moment ago: not asked in a tight loop
                self._wait(self._backoff_s())
            self.expired = True
        elif error.status in (403, 404, 405):
            if not self.hidden:
                self._gap(self.blind_since_s or self.cluster.now_s(), None, lost=True, status=error.status)
                self.failures = 0  # the server answers: what went wrong before is over
            self.hidden = True
            if error.status != 403:
                self.version = None
            absent = error.status != 403 and not self.seen_once
            self._wait(HIDDEN_RETRY_S if absent else self._backoff_s(HIDDEN_RETRY_S))
        else:
            asked_s = error.retry_after_s
            self._wait(asked_s if asked_s is not None else self._backoff_s())

    def _backoff_s(self, longest_s: float = LONGEST_WAIT_S) -> float:
        self.failures += 1
        return min(longest_s, 0.5 * 2 ** min(self.failures - 1, 10)) * random.uniform(0.5, 1.0)

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while not self.done() and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(0.1, left_s))


def _lines(answer: Any) -> Iterator[bytes]:
    """Whole lines of a chunked answer; a half line at a broken end is dropped."""
    held = b""
    for chunk in answer.stream(None, decode_content=False):
        *lines, held = (held + chunk).split(b"\n")
        yield from filter(None, lines)


def _key(found: Object) -> str:
    metadata = found["metadata"]
    return str(metadata.get("uid") or metadata["name"])


def _version(found: Object) -> str:
    return str((found.get("metadata") or {}).get("resourceVersion") or "")


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
