#!/usr/bin/env -S python -P
"""Launcher of `cslm.apps.retrain`; `--help` tells what it does."""

import os  # loaded by the interpreter at its start, so never found in this folder
import sys

# This folder holds a tokenize.py, which must not stand in for the standard library's.
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [os.path.join(os.path.dirname(here), "platform"), *(path for path in sys.path if path != here)]

from cslm.apps.retrain import main  # noqa: E402

sys.exit(main())
