"""The nursery: grows organisms by their recipes, with the one training loop."""
