"""A pool by HTCondor's own command line tools: what is asked, how the answers are read."""
