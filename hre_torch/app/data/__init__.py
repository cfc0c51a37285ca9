"""Data sets, held in memory, and their division among participants."""
