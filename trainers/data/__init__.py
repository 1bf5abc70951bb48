"""Data: reading a CSV with a schema, splitting it, and simulating a population."""

from trainers.data.dataset import Dataset, Part
from trainers.data.load import load_dataset, load_dataset_as

__all__ = ["Dataset", "Part", "load_dataset", "load_dataset_as"]
