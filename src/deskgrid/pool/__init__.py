"""HTCondor: what we ask of it and tell it. It decides, deskgrid carries out."""
