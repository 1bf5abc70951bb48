"""Load, floor and chaos: what `make bench` runs. Everything here talks to loopback only."""
