"""`python -m loadgen.in_locust ARGUMENTS`: Locust, with the load generator's options known before it shows its help."""

import sys

EXIT_INTERRUPTED = 130

sys.argv[0] = "locust"
try:
    from locust.main import main

    import loadgen.in_locust.users  # noqa: F401  # adds the options

    main()
except KeyboardInterrupt:  # its many modules take seconds to load; later interrupts are heard by the run
    sys.stderr.write("locust: interrupted before the load began\n")
    sys.exit(EXIT_INTERRUPTED)
