"""Off-policy evaluation: what another policy would have earned and cost on decisions that were logged.

One-step claims only. A decision's outcome is followed for a fixed time and the customer's later decisions stay
as they were logged: what a policy changes by being followed for weeks (fatigue, cooldowns, a budget that is
spent otherwise) lies outside what these estimators can see. Simulation or an experiment answers that.
"""
