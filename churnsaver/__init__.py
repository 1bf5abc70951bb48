"""What every process of Churn-Saver shares."""

__version__ = "0.1.0"
