"""Everything that is drawn: curves, the report page, range tests, sheets of augmented pictures."""
