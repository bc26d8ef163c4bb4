"""Draws learning curves, the report page of a run, range tests and previews of augmentation policies."""
