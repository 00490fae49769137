"""Decisions as pure functions: no IO, no clock, no threads; what is true goes in, what to do comes out."""
