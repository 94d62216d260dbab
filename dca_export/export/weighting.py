"""By what the errors of each tensor count: an imatrix file, or alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFValueType

from dca_export.errors import InputError
from dca_export.importance.file import Importance, Sums, read_importance
from dca_export.model.hyperparameters import Entries
from dca_export.model.layout import PlannedTensor

T = GGMLQuantizationType

# What llama.cpp's files say of the imatrix they were made with.
FILE_KEY, DATASET_KEY = "quantize.imatrix.file", "quantize.imatrix.dataset"
ENTRIES_KEY, CHUNKS_KEY = "quantize.imatrix.entries_count", "quantize.imatrix.chunks_count"
IMATRIX_KEYS = (FILE_KEY, DATASET_KEY, ENTRIES_KEY, CHUNKS_KEY)

# Each value is rounded by itself or by the largest of its block: no choice that weights could change.
_UNWEIGHTED = (T.F32, T.F16, T.BF16, T.Q8_0, T.MXFP4)


@dataclass
class Weighting:
    """An imatrix, or none, and how many tensors it was asked for."""

    path: Path | None
    importance: Importance | None
    _weighted: int = 0
    _without: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path | None) -> Weighting:
        """What the file at `path` says; None: nothing. Raises InputError."""
        return cls(path, None if path is None else read_importance(path))

    def sums_of(self, planned: PlannedTensor, kind: GGMLQuantizationType) -> Sums | None:
        """What counts in a tensor that becomes `kind`; None: all alike. Raises InputError."""
        if self.importance is None or kind in _UNWEIGHTED:
            return None
        sums = self.importance.sums.get(planned.name)
        if sums is None:
            self._without.append(planned.name)
            return None
        matrices = planned.shape[0] if len(planned.shape) > 2 else 1
        if sums.squares.shape[1] != planned.shape[-1] or len(sums.squares) not in (1, matrices):
            raise InputError(
                f"{self.path}: {planned.name} has {len(sums.squares)} x {sums.squares.shape[1]} sums, the "
                f"tensor {matrices} x {planned.shape[-1]}: an imatrix of another model"
            )
        self._weighted += 1
        return sums

    def notes(self) -> list[str]:
        """What it did, once every tensor was asked for."""
        if self.importance is None:
            return []
        if not self._weighted:
            return [
                f"{self.path}: weighs none of the tensors: their types do not heed it, or it names others"
            ]
        text = f"errors count by {self.path} in {self._weighted} tensors"
        if self._without:
            text += f"; it says nothing of {len(self._without)} others (first {self._without[0]})"
        return [text]

    def entries(self) -> Entries:
        """What the file says of it, as llama.cpp's do."""
        if self.importance is None or self.path is None:
            return {}
        importance = self.importance
        entries: Entries = {FILE_KEY: (GGUFValueType.STRING, self.path.name)}
        if importance.datasets:
            entries[DATASET_KEY] = (GGUFValueType.STRING, importance.datasets[0])
        entries[ENTRIES_KEY] = (GGUFValueType.INT32, len(importance.sums))
        entries[CHUNKS_KEY] = (GGUFValueType.INT32, importance.chunks)
        return entries
