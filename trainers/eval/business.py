"""What a campaign is worth in the terms of a business, overall and by segment.

Each figure is a ratio of sums over customers and campaigns; its interval is a bootstrap over both. The
customers are those of the campaign's start, whatever becomes of them, and "never" is the same campaign on the
same random numbers in which nobody is contacted.

- Net revenue retention: monthly recurring revenue at the end from the customers of the start, less the discounts
  that still run, over that of the start (no customer buys more here, so there is no expansion in it).
- Gross margin retained: the same of gross margin; a discount comes out of margin in full.
- ROI: net value over contacting nobody, spend already taken off, for each dollar spent (return on a retention
  campaign as in Neslin et al. 2006, "Defection detection", and Lemmens & Gupta 2020, "Managing churn to
  maximize profits").
- Incremental saves: customers who stay and would have left uncontacted, less those who leave and would have
  stayed, per 1,000 customers: contact can also drive away (Ascarza 2018, "Retention futility").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.env.params import CONSTRAINTS, SEGMENTS
from trainers.env.response import Floats
from trainers.eval.metrics import Interval
from trainers.eval.play import Bools, Play, Setting
from trainers.eval.resample import TwoWayBootstrap, percentile_interval

SPEND, CONTACT = CONSTRAINTS.index("spend_usd"), CONSTRAINTS.index("contact")
THIRDS = ("low", "middle", "high")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a report: a ratio of sums over customers.

    Attributes:
        title: for a table's head, with the unit.
        parts: what is summed above and below the line, each (campaigns, customers).
        scale: the ratio is multiplied with it.
    """

    title: str
    parts: Callable[[Setting, Play, Play], tuple[Floats, Floats]]
    scale: float = 1.0


def _ones(played: Play) -> Floats:
    return np.ones_like(played.gain_usd)


def _monthly(setting: Setting, played: Play) -> Floats:
    return np.broadcast_to(setting.population.features.monthly_usd, played.gain_usd.shape)


def _net_revenue(setting: Setting, played: Play, _: Play) -> tuple[Floats, Floats]:
    monthly = _monthly(setting, played)
    return np.where(played.churned, 0.0, monthly - played.discount_usd), monthly


def _gross_margin(setting: Setting, played: Play, _: Play) -> tuple[Floats, Floats]:
    margin = _monthly(setting, played) * setting.world.money.gross_margin
    return np.where(played.churned, 0.0, margin - played.discount_usd), margin


def _saves(_: Setting, played: Play, never: Play) -> tuple[Floats, Floats]:
    return never.churned.astype(np.float64) - played.churned, _ones(played)


def _share(of: Callable[[Play], NDArray[np.generic]]) -> Callable[[Setting, Play, Play], tuple[Floats, Floats]]:
    """Per customer of the campaign."""
    return lambda _, played, __: (of(played).astype(np.float64), _ones(played))


FIGURES: Mapping[str, Figure] = {
    "net_revenue_retention": Figure("net revenue retention", _net_revenue),
    "gross_margin_retained": Figure("gross margin retained", _gross_margin),
    "gain_usd": Figure("net value over never, $ a customer", _share(lambda played: played.gain_usd)),
    "roi": Figure("ROI, $ for each $", lambda _, played, __: (played.gain_usd, played.costs[..., SPEND])),
    "incremental_saves_per_1000": Figure("saves per 1,000 customers", _saves, 1000.0),
    "spend_usd": Figure("spend, $ a customer", _share(lambda played: played.costs[..., SPEND])),
    "contacts": Figure("contacts a customer", _share(lambda played: played.costs[..., CONTACT])),
    "acceptance": Figure(
        "accepted, of contacts", lambda _, played, __: (played.accepted.astype(np.float64), played.costs[..., CONTACT])
    ),
    "opt_outs": Figure("opted out, of customers", _share(lambda played: played.opted_out)),
    "churned": Figure("left, of customers", _share(lambda played: played.churned)),
}


def business_figures(
    setting: Setting, played: Play, never: Play, bootstrap: TwoWayBootstrap, rows: Bools | None = None
) -> dict[str, Interval | None]:
    """Every one of FIGURES with its interval; None where it is not defined, as the ROI of nothing spent.

    Args:
        rows: (campaigns, customers), the part of them that is looked at; None: all.
    """
    parts = (part for figure in FIGURES.values() for part in figure.parts(setting, played, never))
    shown = [part if rows is None else np.where(rows, part, 0.0) for part in parts]
    columns = np.stack(shown, axis=2)  # (campaigns, customers, 2 · figures), above and below the line in turn
    with np.errstate(divide="ignore", invalid="ignore"):
        values, replicates = _ratios(columns.mean(axis=(0, 1))), _ratios(bootstrap.means(columns))
    scales = [figure.scale for figure in FIGURES.values()]
    return {
        name: _interval(scale * values[i], scale * replicates[:, i])
        for i, (name, scale) in enumerate(zip(FIGURES, scales, strict=True))
    }


def _ratios(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0::2] / sums[..., 1::2], dtype=np.float64)


def _interval(value: float, replicates: Floats) -> Interval | None:
    return percentile_interval(value, replicates) if np.isfinite(value) else None


def segments(setting: Setting, played: Play) -> dict[str, dict[str, Bools]]:
    """Parts of the customers by what is seen of them and by how they respond, each (campaigns, customers).

    Thirds of what is seen are of equal size where values do not tie; the response segment is the simulator's own,
    which no policy sees, and is drawn anew for every campaign.
    """
    seen, shape = setting.population.features, played.segment.shape
    thirds = {
        name: {third: np.broadcast_to(rows, shape) for third, rows in _thirds(values).items()}
        for name, values in (("risk", seen.risk), ("tenure", seen.tenure_months), ("charge", seen.monthly_usd))
    }
    response = {name: played.segment == number for number, name in enumerate(SEGMENTS)}
    return {**thirds, "response": {name: rows for name, rows in response.items() if rows.any()}}


def _thirds(values: Floats) -> dict[str, Bools]:
    which = np.digitize(values, np.quantile(values, [1 / 3, 2 / 3]))
    return {third: which == number for number, third in enumerate(THIRDS) if (which == number).any()}
