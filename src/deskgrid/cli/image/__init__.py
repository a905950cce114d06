"""Commands that make, compare and publish images."""
