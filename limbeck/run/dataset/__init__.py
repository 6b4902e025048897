"""Runs that make data sets."""
