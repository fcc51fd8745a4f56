"""Errors that only an HTTP door knows."""

from __future__ import annotations

from edgesched.errors import EdgeSchedError


class UploadStalled(EdgeSchedError):
    """The body did not come."""


class BodyTooLarge(EdgeSchedError):
    """More bytes than the gateway takes into its memory."""
