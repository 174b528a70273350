"""One small module per server: how it is released with what remains of the budget."""
