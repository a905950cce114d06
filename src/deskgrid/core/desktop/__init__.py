"""What a desktop's agent decides: the table of a VM's life, and one step from an input to commands."""
