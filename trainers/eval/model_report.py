"""What the reports of tree models have in common: targets, plots, reasons."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from churnsaver.domain.schema import Role
from churnsaver.errors import BadInput
from churnsaver.models.trees import RiskModel
from trainers.data import Dataset
from trainers.eval.metrics import Interval
from trainers.eval.model_plots import bar_plot, reliability_plot, segment_plots

REASONS = 3
# "Not worse" means that a difference in AUC beyond this is ruled out; half of one fold's standard deviation.
AUC_MARGIN = 0.005


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What was measured.

    Attributes:
        result: for `--json`: numbers, intervals and, under "missed", the targets that were missed.
        reliability: points of the reliability diagram of each model, by name.
    """

    result: dict[str, Any]
    reliability: dict[str, list[dict[str, float]]]

    def plots(self) -> list[str]:
        """Reliability, also by segment, and what the model reads, as SVG elements."""
        importance = bar_plot("What moves the prediction", self.result["importance"], "mean |SHAP value|, log-odds")
        return [reliability_plot(self.reliability), importance, *segment_plots(self.result["segments"])]


def auc_missed(differences: Mapping[str, Interval]) -> list[str]:
    """A sentence for each model, by name, than which the AUC may be worse by more than AUC_MARGIN."""
    return [
        f"AUC may be {-interval.low:.4f} below {other}'s (margin {AUC_MARGIN})"
        for other, interval in differences.items()
        if not interval.low >= -AUC_MARGIN
    ]


def ece_missed(ece: float, floor_mean: float, floor_sd: float) -> list[str]:
    """A sentence where an ECE is larger than perfect probabilities would show, else nothing."""
    if ece <= floor_mean + 2.0 * floor_sd:
        return []
    return [f"ECE {ece:.4f} is above the sampling floor {floor_mean:.4f} + 2 × {floor_sd:.4f}"]


def write_reasons(out: Path, model: RiskModel, rows: Dataset) -> Path:
    """`reasons.csv` in the folder `out`: each row's risk and what moved it most, the strongest first.

    A row is named by its id, or by its number among `rows` where the schema has no id.
    """
    path = out / "reasons.csv"
    id_name = rows.schema.name_of(Role.ID)
    ids = rows.frame[id_name] if id_name else range(len(rows))
    risk = model.trees.probability(rows.matrix(model.schema))
    header = [f"reason_{n}{part}" for n in range(1, REASONS + 1) for part in ("", "_value", "_log_odds")]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "risk", *header])
            for name, value, reasons in zip(ids, risk, model.reasons(rows.rows(), REASONS), strict=True):
                cells = [cell for r in reasons for cell in (r.feature, r.value, f"{r.log_odds:+.4f}")]
                writer.writerow([name, f"{value:.6f}", *cells])
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
    return path
