"""Files that people write by hand: read strictly, and everything that is wrong with one said at once."""
