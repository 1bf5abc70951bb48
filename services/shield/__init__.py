"""Reviews messages before anyone receives them. It holds no state and fails closed."""
