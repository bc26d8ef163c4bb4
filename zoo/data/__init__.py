"""Finds, decodes and splits a user's pictures.

`sources` and `tables` list pictures and their labels. `pixels` decodes each picture once. `split` makes train,
validation and test parts, and `dataset` puts all of this together. `augment` builds the functions that alter training
pictures.
"""
