"""`python -m loadgen.in_locust ARGUMENTS`: Locust, with the load generator's options known before it shows its help."""

import sys

from locust.main import main

import loadgen.in_locust.users  # noqa: F401  # adds the options

sys.argv[0] = "locust"
main()
