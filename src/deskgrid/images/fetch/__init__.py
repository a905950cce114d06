"""How a desktop gets the chunks that it lacks, from whichever source answers."""
