"""How early and how rarely the breaker trips, against the rules that people use today."""
