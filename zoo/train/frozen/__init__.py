"""Handles the frozen part of a network: finds where it ends, runs it, and caches its outputs."""
