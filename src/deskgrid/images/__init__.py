"""Images: from a recipe to a bootable disk, and from a store to an opened disk."""
