"""Customers, actions, rules and money: pure functions and frozen values, no input or output."""
