"""One script from a laptop to real servers."""
