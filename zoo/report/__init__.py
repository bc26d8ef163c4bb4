"""Draws learning curves, range tests and previews of augmentation policies, and renders the report page of a run."""
