"""edgesched: a handful of unlike edge boards that look like one fast, dependable inference server."""

from __future__ import annotations

__version__ = "0.1.0"
