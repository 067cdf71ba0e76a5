"""What decides: models of gains, from the rule that needs no weights to the networks that listen."""
