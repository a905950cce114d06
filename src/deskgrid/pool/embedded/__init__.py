"""A whole HTCondor pool in a folder: central manager, schedd, and an execute node."""
