"""Finds, decodes and splits a user's pictures.

`sources` lists pictures and their labels: those of folders (`folders`, `layouts`, `splits`, `tree`) or of a table
(`tables`), as `reading` says. `overview` describes what was read. `pixels` decodes each picture once. `split` makes
train, validation and test parts, and `dataset` puts all of this together. `augment` builds the functions that alter
training pictures.
"""
