"""What Locust imports, where it is installed, before it reads its options (locust/main.py): it shows help before it reads a
locustfile, and would know nothing of the load generator's options. A package of that name, such as the one on PyPI, comes
before this module; `autoscale load --help` shows the options in any case.
"""

import os
import sys
from pathlib import PurePath

_WORDS = [*sys.argv[1:], os.environ.get("LOCUST_LOCUSTFILE", "")]
_FILES = (PurePath(word.rpartition("=")[2]) for word in _WORDS)
if {"-h", "--help"} & set(_WORDS) and any(path.parent.name == "loadgen" for path in _FILES):
    import loadgen.in_locust.users  # noqa: F401  # adds them
