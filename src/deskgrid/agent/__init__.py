"""The process on each desktop: senses the owner, talks to the coordinator, keeps virtual machines. No privileges."""
