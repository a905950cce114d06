"""What the accounts of this computer are told and may ask, over a local socket."""
