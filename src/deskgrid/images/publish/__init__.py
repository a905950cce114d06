"""The researcher's side: an image cut into encrypted chunks, listed, tried and reviewed."""
