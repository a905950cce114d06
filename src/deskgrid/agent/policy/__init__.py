"""The policy of this desktop from its layers' files, and the days of its calendars."""
