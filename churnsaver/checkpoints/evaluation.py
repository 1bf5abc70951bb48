"""An evaluation's report as promotion asks it: which checkpoint it is of, and what that missed (docs/adr/0017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

from churnsaver.errors import BadInput, GateFailed


class EvaluatedCheckpoint(BaseModel):
    kind: str
    version: str
    sha256: str


class Findings(BaseModel):
    """The part of report.json that is read here; the rest is for people."""

    checkpoint: EvaluatedCheckpoint
    missed: list[str]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A report as `eval … --out` wrote it.

    Attributes:
        raw: the whole report.
        where: the file it is from, for messages.
    """

    findings: Findings
    raw: bytes
    where: str

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """The evaluation in the bytes of a report.json; BadInput where they are none that names a checkpoint."""
        try:
            return cls(Findings.model_validate_json(raw), raw, where)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "the file"
            raise BadInput(
                f"{where}: is no report of an evaluation ({place}: {fault['msg']}); give the report.json that "
                "`churn-saver eval policy --out` wrote"
            ) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """`parse` of a file; BadInput where it cannot be read."""
        try:
            return cls.parse(path.read_bytes(), str(path))
        except OSError as error:
            raise BadInput(
                f"{path}: cannot be read ({error.strerror}); give the report.json that `churn-saver eval policy --out` "
                "wrote"
            ) from None

    def require(self, kind: str, version: str, manifest_sha256: str) -> None:
        """That it is of this very checkpoint, which missed nothing.

        Raises:
            BadInput: it is of another checkpoint.
            GateFailed: a target was missed.
        """
        of = self.findings.checkpoint
        if (of.kind, of.version, of.sha256) != (kind, version, manifest_sha256):
            raise BadInput(
                f"{self.where}: is of the {of.kind} {of.version} (sha256 {of.sha256[:12]}…), not of the {kind} "
                f"{version} ({manifest_sha256[:12]}…); evaluate that one"
            )
        if self.findings.missed:
            raise GateFailed(f"{version}: {'; '.join(self.findings.missed)}")
