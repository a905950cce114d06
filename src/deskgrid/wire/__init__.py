"""The messages between agent and coordinator: one schema for both ends. JSON; unknown fields are kept, not refused."""
