"""`eval drift`: whether new customers are still like those that a model learned from.

A column has drifted where two things hold. The shift is more than chance: a two-sample test rejects after
Benjamini and Hochberg's (1995) correction over all tests. And it is large enough to matter: its population
stability index reaches MODERATE_PSI. On few rows a PSI is noise, on many a test finds what matters to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
import xgboost as xgb
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, false_discovery_control, ks_2samp

from churnsaver.errors import BadInput
from churnsaver.models.trees import RiskModel
from trainers.data.dataset import encode_frame
from trainers.eval.metrics import Interval, bootstrap
from trainers.eval.model_plots import bar_plot, distribution_plot
from trainers.models.boost import FOLDS, QUICK
from trainers.models.folds import stratified_folds

# The usual reading of a PSI (Siddiqi, "Credit Risk Scorecards", 2006): below 0.1 no change, from 0.25 a large one.
MODERATE_PSI, LARGE_PSI = 0.1, 0.25
PSI_BINS = 10
FALSE_DISCOVERY_RATE = 0.05
MIN_ROWS = 200
MIN_EXPECTED = 5.0
# A category that the reference lacks is refused by the services; more of it than this is a fault of its own.
MAX_UNSEEN_SHARE = 0.01
RISK = "predicted risk"
SHOWN = 5
CLASSIFIER_ROUNDS = 60

Floats = NDArray[np.float64]


@dataclass(slots=True)
class ColumnDrift:
    """How one column of the new rows differs from the reference's.

    Attributes:
        psi: population stability index over bins (a missing value is one) of the reference's deciles or categories.
        psi_expected: its mean where nothing has changed: (bins − 1)(1/n + 1/m), Yurdakul (2018).
        test: "ks" (Kolmogorov-Smirnov, values present) or "chi_square".
        p_value: of the test; adjusted for all tests, as is the next.
        missing_p_value: of a χ² test of the share missing; None where nothing is.
        unseen: share of new rows with a category that the reference lacks, by category.
    """

    psi: float
    psi_expected: float
    test: str
    p_value: float
    missing_reference: float
    missing_new: float
    missing_p_value: float | None = None
    mean_reference: float | None = None
    mean_new: float | None = None
    unseen: dict[str, float] = field(default_factory=dict)

    @property
    def least_p_value(self) -> float:
        """The smaller of the column's p-values."""
        return self.p_value if self.missing_p_value is None else min(self.p_value, self.missing_p_value)

    @property
    def verdict(self) -> str:
        """none, small (more than chance, too little to matter), moderate or large."""
        if self.least_p_value >= FALSE_DISCOVERY_RATE:
            return "none"
        return "large" if self.psi >= LARGE_PSI else "moderate" if self.psi >= MODERATE_PSI else "small"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def measure_drift(reference: pl.DataFrame, new: pl.DataFrame) -> dict[str, ColumnDrift]:
    """The drift of every column, by name; p-values are adjusted for one another.

    Args:
        reference, new: the same columns; Float64 is numeric, anything else categorical, null missing.

    Raises:
        BadInput: either has fewer than MIN_ROWS rows, or they do not have the same columns.
    """
    _require_same_columns(reference, new)
    for name, frame in (("reference", reference), ("new data", new)):
        if frame.height < MIN_ROWS:
            raise BadInput(f"the {name} have {frame.height} rows; a drift report needs at least {MIN_ROWS} of each")
    columns = {name: _column_drift(reference[name], new[name]) for name in reference.columns}
    tested = [column for column in columns.values() if column.missing_p_value is not None]
    raw = [column.p_value for column in columns.values()] + [column.missing_p_value for column in tested]
    adjusted = iter(false_discovery_control(raw).tolist())
    for column in columns.values():
        column.p_value = next(adjusted)
    for column in tested:
        column.missing_p_value = next(adjusted)
    return columns


def with_risk(frame: pl.DataFrame, model: RiskModel) -> pl.DataFrame:
    """`frame` and what the model predicts for its rows, as one more column."""
    return frame.with_columns(pl.Series(RISK, model.trees.probability(encode_frame(frame, model.schema))))


def told_apart(reference: pl.DataFrame, new: pl.DataFrame, seed: int) -> Interval:
    """AUC, cross-validated, of trees that tell new rows from the reference's; 0.5 where they cannot.

    It sees what columns one at a time do not: a changed relation between them (Lopez-Paz and Oquab 2017,
    "Revisiting classifier two-sample tests").
    """
    both = pl.concat([reference, new])
    matrix = np.column_stack([_as_numbers(both[name]) for name in both.columns])
    types = ["q" if both[name].dtype == pl.Float64 else "c" for name in both.columns]
    is_new = np.arange(both.height) >= reference.height
    said = np.empty(both.height)
    data = xgb.DMatrix(matrix, label=is_new, feature_types=types, nthread=1)
    parameters = QUICK.parameters(QUICK.depths[0], 1.0, seed)  # all columns: a relation takes two
    for fold in stratified_folds(is_new, FOLDS, [seed, 3]):
        booster = xgb.train(parameters, data.slice(fold.fit), CLASSIFIER_ROUNDS)
        said[fold.held_out] = booster.predict(data.slice(fold.held_out))
    return bootstrap(is_new, said, seed)["auc"]


def drift_result(
    columns: Mapping[str, ColumnDrift], reference: pl.DataFrame, new: pl.DataFrame, seed: int
) -> dict[str, Any]:
    """The report for `--json`; "missed" says, a sentence each, what has drifted."""
    return {
        "rows_reference": reference.height,
        "rows_new": new.height,
        "thresholds": {
            "psi_moderate": MODERATE_PSI,
            "psi_large": LARGE_PSI,
            "false_discovery_rate": FALSE_DISCOVERY_RATE,
            "unseen_share": MAX_UNSEEN_SHARE,
        },
        "note": "A PSI is above zero by chance alone; psi_expected is its mean where nothing has changed. A column has "
        "drifted where a test corrected for the number of tests rejects and its PSI reaches psi_moderate.",
        "drifted": sum(column.verdict in {"moderate", "large"} for column in columns.values()),
        "told_apart_auc": told_apart(reference, new, seed).as_dict(),
        "columns": {name: column.as_dict() for name, column in _by_psi(columns).items()},
        "missed": [sentence for name, column in _by_psi(columns).items() for sentence in _sentences(name, column)],
    }


def drift_plots(columns: Mapping[str, ColumnDrift], reference: pl.DataFrame, new: pl.DataFrame) -> list[str]:
    """The PSI of every column, and the distributions of the predicted risk and of what has drifted most."""
    marks = {"moderate": MODERATE_PSI, "large": LARGE_PSI}
    sizes = {name: column.psi for name, column in columns.items()}
    shown = list(dict.fromkeys([*([RISK] if RISK in columns else []), *_by_psi(columns)]))[:SHOWN]
    bars = bar_plot("Population stability index", sizes, "PSI of the new data against the reference", marks)
    return [bars, *(distribution_plot(name, reference[name], new[name]) for name in shown)]


def psi(reference: Floats, new: Floats) -> float:
    """Population stability index of two histograms of counts over the same bins, each (bins,).

    Half a row is added to every bin, so that an empty one gives a large number, not an infinite one.
    """
    shares = [(counts + 0.5) / (counts + 0.5).sum() for counts in (reference, new)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def _require_same_columns(reference: pl.DataFrame, new: pl.DataFrame) -> None:
    types = [{name: frame[name].dtype for name in frame.columns} for frame in (reference, new)]
    if differing := sorted({name for name, _ in types[0].items() ^ types[1].items()}):
        raise BadInput(
            f"the reference and the new data do not have the same columns of the same kind ({', '.join(differing[:5])} "
            "differ); read both with one schema"
        )


def _as_numbers(values: pl.Series) -> NDArray[np.float32]:
    """Numbers as they are and categories as codes, NaN missing, (n,)."""
    if values.dtype != pl.Float64:
        values = values.rank("dense") - 1
    return values.cast(pl.Float32).to_numpy()


def _by_psi(columns: Mapping[str, ColumnDrift]) -> dict[str, ColumnDrift]:
    return dict(sorted(columns.items(), key=lambda item: -item[1].psi))


def _sentences(name: str, column: ColumnDrift) -> list[str]:
    found = []
    if column.verdict in {"moderate", "large"}:
        p_value = f"p = {column.least_p_value:.2g} after correction"
        found.append(f"{name}: {column.verdict} drift, PSI {column.psi:.3f} ({p_value})")
    if (share := sum(column.unseen.values())) > MAX_UNSEEN_SHARE:
        found.append(f"{name}: {share:.1%} of the new rows have a category that the reference lacks")
    return found


def _column_drift(reference: pl.Series, new: pl.Series) -> ColumnDrift:
    counts = _histograms(reference, new)
    used = counts[:, counts.sum(axis=0) > 0]
    missing = [series.null_count() for series in (reference, new)]
    sizes = (len(reference), len(new))
    drift = ColumnDrift(
        psi=psi(counts[0], counts[1]),
        psi_expected=(used.shape[1] - 1) * (1 / sizes[0] + 1 / sizes[1]),
        test="chi_square",
        p_value=_chi_square(used),
        missing_reference=missing[0] / sizes[0],
        missing_new=missing[1] / sizes[1],
    )
    if any(missing):
        drift.missing_p_value = _chi_square(np.array([[m, n - m] for m, n in zip(missing, sizes, strict=True)], float))
    if reference.dtype == pl.Float64:
        present = [series.drop_nulls().to_numpy() for series in (reference, new)]
        drift.test, drift.p_value = "ks", _kolmogorov_smirnov(*present)
        drift.mean_reference, drift.mean_new = (float(v.mean()) if v.size else None for v in present)
    else:
        known = set(reference)
        unseen = new.filter(~new.is_in(known) & new.is_not_null()).value_counts(sort=True)
        drift.unseen = {str(value): count / sizes[1] for value, count in unseen.iter_rows()}
    return drift


def _histograms(reference: pl.Series, new: pl.Series) -> Floats:
    """Counts over shared bins, (2, bins); the last bin is for missing values."""
    if reference.dtype == pl.Float64:
        present = [series.drop_nulls().to_numpy() for series in (reference, new)]
        inner = np.arange(1, PSI_BINS) / PSI_BINS
        edges = np.unique(np.quantile(present[0], inner)) if present[0].size else np.empty(0)
        codes = [np.searchsorted(edges, values, side="right") for values in present]
        bins = len(edges) + 1
    else:
        categories = sorted({*reference.drop_nulls(), *new.drop_nulls()})
        number = {category: code for code, category in enumerate(categories)}
        codes = [
            np.array([number[value] for value in series.drop_nulls()], dtype=np.int64) for series in (reference, new)
        ]
        bins = len(categories)
    counts = [np.bincount(of, minlength=bins).astype(np.float64) for of in codes]
    return np.column_stack([np.array(counts), [reference.null_count(), new.null_count()]])


def _kolmogorov_smirnov(reference: Floats, new: Floats) -> float:
    if not reference.size or not new.size:
        return 1.0  # the test of the share missing says it
    return float(ks_2samp(reference, new, method="asymp").pvalue)


def _chi_square(counts: Floats) -> float:
    """p-value of the same shares in both rows of `counts` (2, bins), rare bins taken together; 1 for one bin."""
    expected = counts.sum(axis=0) * counts.sum(axis=1).min() / counts.sum()
    rare = expected < MIN_EXPECTED
    table = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    return float(chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0
