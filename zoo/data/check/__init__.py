"""Checks a user's pictures: copies, leaks, contradicting labels, and pictures that show little.

`near` finds near-duplicates, with `thumbnails`, `hashes` and `similarity`. `groups` decides which pictures stay
together in a split. `quick` is the part that runs before every training, on pixels that are decoded already. `headers`,
`quality` and `findings` make the full check of `zoo data check`, and `quarantine` moves files out of the way.
"""
