"""What re-checks a run directory: `hre-torch audit`. See README.md."""

from hre_torch.app.audit.check import AuditReport, audit
from hre_torch.app.audit.transcript import TRANSCRIPT, TranscriptWriter

__all__ = ["TRANSCRIPT", "AuditReport", "TranscriptWriter", "audit"]
