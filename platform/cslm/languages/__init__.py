"""Languages that join a model: cards, what is due, the ceiling test, the gate, leases and the schedule."""
