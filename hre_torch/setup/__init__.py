"""What an operator sets up: identities and the roster."""
