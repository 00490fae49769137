"""Recovery measured: how soon a trip is decided, what a remedy interrupts, what the breaker itself costs."""
