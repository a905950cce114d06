"""A desktop's own repository of chunks, encrypted at rest."""
