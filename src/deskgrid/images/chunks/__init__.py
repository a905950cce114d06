"""Images in encrypted chunks: published once, fetched in part, read without ever being in the clear on a disk."""
