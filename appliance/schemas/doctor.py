"""The wire types of the doctor: what ``GET /admin/doctor`` and ``appliance doctor --json`` give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

FindingStatus = Literal["ok", "warning", "failed"]


class Finding(BaseModel):
    """What one check found. ``remedy`` says what to do, where something is to be done."""

    model_config = ConfigDict(frozen=True)

    name: str
    status: FindingStatus
    message: str
    remedy: str | None = None


class Diagnosis(BaseModel):
    """``status`` is that of the worst finding."""

    status: FindingStatus
    findings: list[Finding]


def diagnosis(findings: Sequence[Finding]) -> Diagnosis:
    found = {finding.status for finding in findings}
    worst: FindingStatus = "failed" if "failed" in found else "warning" if "warning" in found else "ok"
    return Diagnosis(status=worst, findings=list(findings))
