"""The owner of a Mac. Never run on a Mac."""
