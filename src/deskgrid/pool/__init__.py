"""HTCondor: what we ask and tell it. It decides, deskgrid carries out."""
