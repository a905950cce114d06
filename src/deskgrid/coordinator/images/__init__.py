"""The images that the coordinator offers, from a signed repository."""
