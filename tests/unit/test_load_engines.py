"""The memory that the comparison of engines calls an engine's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from tests.load.engines import Loading, measure_writing

OF_TRAINERS = ("datasets", "peft", "torch", "transformers", "trl")


def mebibytes(count: int) -> npt.NDArray[np.uint8]:
    """So much memory, touched."""
    return np.ones(count * 2**20, dtype=np.uint8)


class Fake:
    """Holds 64 MiB when loaded, and 128 more while it writes."""

    def __init__(self) -> None:
        with Loading() as self.loading:
            self._weights = mebibytes(64)

    def write(self, _: str, count: int, seed: int) -> list[str]:
        cache = mebibytes(128)
        return [f"{cache[0]} {seed}"] * count

    def count_tokens(self, text: str) -> int:
        return len(text)

    def log_probs(self, _: str, text: str) -> list[float]:
        return [0.0] * len(text)


def test_our_engine_shares_its_process_with_no_library_of_the_trainers() -> None:
    """Else their memory would be counted as what stands before loading."""
    program = f"import sys, tests.load.engines; print([name for name in {OF_TRAINERS} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_what_loading_and_writing_add() -> None:
    """Neither what the process held before, nor an earlier peak of it, counts."""
    mebibytes(512)
    figures = measure_writing(Fake(), ["told"])
    assert figures["load_memory_mb"] == pytest.approx(64.0, abs=8.0)
    assert figures["writing_peak_memory_mb"] == pytest.approx(192.0, abs=8.0)
