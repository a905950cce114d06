"""From a recipe, or from somebody else's disk, to an image: the same bytes each time."""
