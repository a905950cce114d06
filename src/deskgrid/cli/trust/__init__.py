"""Commands of those who vouch for images."""
