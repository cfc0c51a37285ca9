"""How accurate the federated model is, beside what one could have without it."""
