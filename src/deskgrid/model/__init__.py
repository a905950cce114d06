"""The nouns: frozen, typed values that every other room speaks of. No clock, no I/O, no behaviour beyond themselves."""
