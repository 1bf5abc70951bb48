"""Decides whether, when and with what offer to contact one customer. It holds no state of customers."""
