"""The helper in the session of whoever sits here: what it sees, a page and a sign, never a right to start anything."""
