"""Commands that convert data, under the names that users know; the code: squeezenext.convert."""
