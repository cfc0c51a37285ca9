"""Several organisations: keys, rosters, servers and participants of their own."""
