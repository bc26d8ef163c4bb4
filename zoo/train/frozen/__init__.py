"""The frozen part of a network: where it ends, how it runs, and the cache of its outputs."""
