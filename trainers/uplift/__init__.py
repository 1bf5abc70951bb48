"""Uplift: whom a contact changes, learned from an experiment.

`LEARNERS` are the ways to learn it, all behind `UpliftLearner`; what they return is what serves
(`churnsaver.models.uplift`).
"""

from __future__ import annotations

from collections.abc import Callable

from churnsaver.models.uplift import Learner
from trainers.uplift.boosting import Forester
from trainers.uplift.dr_learner import DRLearner
from trainers.uplift.learner import Scorer, TreeLearner, UpliftLearner
from trainers.uplift.s_learner import SLearner
from trainers.uplift.t_learner import TLearner
from trainers.uplift.x_learner import XLearner

LEARNERS: dict[Learner, Callable[[Forester], TreeLearner]] = {
    Learner.S: SLearner,
    Learner.T: TLearner,
    Learner.X: XLearner,
    Learner.DR: DRLearner,
}

__all__ = ["LEARNERS", "DRLearner", "SLearner", "Scorer", "TLearner", "UpliftLearner", "XLearner"]
