"""`make audit`: known vulnerabilities of what requirements/ locks: `python tests/audit.py PIP-AUDIT...`.

pip-audit alone ends with 0 and "no known vulnerabilities" when its service knew none of the packages; here that is no
answer. Exit code 0: every package was looked up and none has any; 1: some have; 3: it could not be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCKS = ("build", "run", "test")
LONGEST_S = 600


def main(pip_audit: list[str]) -> int:
    """Audit each lock once; the exit code."""
    if not pip_audit:
        return _unknown("pip-audit could not be installed")
    requirements = Path(__file__).parents[1] / "requirements"
    command = [
        *pip_audit,
        "--disable-pip",
        "--require-hashes",
        "--progress-spinner",
        "off",
        "--format",
        "json",
    ]
    for name in LOCKS:
        command += ["--requirement", str(requirements / f"{name}.txt")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _unknown(f"pip-audit did not answer: {error}")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return _unknown(f"pip-audit did not answer: {last[-300:]}")
    return judge(answer["dependencies"])


def judge(dependencies: list[dict]) -> int:
    """What pip-audit's JSON says of the packages; prints it."""
    unknown = [one for one in dependencies if "skip_reason" in one]
    bad = [(one, found) for one in dependencies for found in one.get("vulns", [])]
    for one, found in bad:
        fixed = ", ".join(found.get("fix_versions", [])) or "no version yet"
        print(f"{one['name']} {one['version']}: {found['id']}, fixed in {fixed}")
    if bad:
        print("audit: move them with make lock UPGRADE='--upgrade-package NAME'", file=sys.stderr)
        return 1
    if unknown or not dependencies:
        return _unknown(f"of {len(dependencies)} packages {len(unknown)} are not known to the service")
    print(f"audit: {len(dependencies)} locked packages, no known vulnerability")
    return 0


def _unknown(why: str) -> int:
    print(
        f"audit: nothing can be said of the lock: {why}. Needed are a package registry and PyPI's JSON API; "
        "run it again where they answer",
        file=sys.stderr,
    )
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
