"""The two figures of a study, as SVG text: error against depth, and errors over steps.

A figure is drawn once, in fixed inks.  `inlined` turns these into the page's CSS variables, so that it follows light and dark;
`standalone` gives it a white ground.  Errors come in as fractions and are drawn in percent.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING

from residua.report.curves import draw_curves
from residua.report.tables import Cell, Finished
from residua.report.verdict import name
