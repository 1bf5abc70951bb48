"""The experiment's shares and the baseline: at most all customers, what the champion is left with, known names."""

from __future__ import annotations

import pytest

from churnsaver.errors import SettingsError
from churnsaver.settings import ExperimentSettings, load_serve_settings


def test_shares_over_one_are_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names both shares and how to mend them."""
    monkeypatch.setenv("CHURN_SAVER_GATEWAY__EXPERIMENT", '{"baseline": 0.7, "holdout": 0.5}')
    with pytest.raises(SettingsError, match=r"gateway\.experiment: baseline 0\.7 and holdout 0\.5 .* lower one"):
        load_serve_settings()


def test_the_champion_gets_what_is_left() -> None:
    """Nothing where the others take everybody, whatever binary fractions add up to."""
    assert ExperimentSettings(baseline=0.2, holdout=0.3).champion == pytest.approx(0.5)
    assert ExperimentSettings(baseline=0.9, holdout=0.1).champion == pytest.approx(0.0, abs=1e-12)


def test_an_unknown_baseline_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the setting and what it may be."""
    monkeypatch.setenv("CHURN_SAVER_GATEWAY__BASELINE", "oracle")
    with pytest.raises(SettingsError, match=r"gateway\.baseline: .*'scorecard', 'propensity', 'uplift_trees'"):
        load_serve_settings()
    monkeypatch.setenv("CHURN_SAVER_GATEWAY__BASELINE", "thompson_sampling")
    assert load_serve_settings().gateway.baseline == "thompson_sampling"
