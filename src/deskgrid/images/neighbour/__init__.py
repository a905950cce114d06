"""The process that gives parts of images to neighbours on the same subnet."""
