"""Tests: unit, contract, integration, e2e; load is what `make bench` runs."""
