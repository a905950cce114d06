"""The signers' and the coordinator's side: the repository's metadata, who signed, what waits."""
