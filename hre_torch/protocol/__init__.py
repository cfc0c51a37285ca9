"""The protocol as a cast of roles: pure functions of state, one message in, one out."""
