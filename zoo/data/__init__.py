"""A user's pictures: sources (find them) -> pixels (decode them once) -> split (train, validation, test) -> dataset."""
