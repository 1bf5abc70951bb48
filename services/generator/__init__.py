"""Writes slotted messages for briefs. It never sees a customer's name, address or number."""
