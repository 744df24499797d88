"""A model directory, its files, and any model loaded from where a user names it."""
