"""Sizing policies replayed over a history of runs, each run sized from those that ended before it began."""
