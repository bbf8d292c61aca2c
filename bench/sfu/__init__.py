"""What a server spends to forward packets, with peers that are real and cost little (see `__main__`)."""
