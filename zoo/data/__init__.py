"""A user's pictures: sources (where they are) -> pixels (decoded once) -> split (who learns, who judges)."""
