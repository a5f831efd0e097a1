#!/usr/bin/env -S python -P
"""Launcher of `cslm.apps.tokenize`; `--help` tells what it does."""

import sys

# This folder holds a tokenize.py, this very file, which must not stand in for the standard library's.
root = __file__.rsplit("/", 2)[0]
sys.path[:] = [f"{root}/platform", *(path for path in sys.path if path != f"{root}/jobs")]

from cslm.apps.tokenize import main  # noqa: E402

sys.exit(main())
