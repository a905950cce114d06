"""Commands for one desktop: its administrator's and its owner's."""
