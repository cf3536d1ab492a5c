"""Doorstep: the last mile for machine-learning models."""
