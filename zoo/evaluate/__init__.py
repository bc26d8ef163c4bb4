"""Judging an exported file on pictures: metrics, table, report."""
