"""What recipes, manifests, chunks and packs look like, on the publishing side and on the desktop."""
