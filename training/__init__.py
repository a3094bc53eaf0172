"""How a checkpoint comes to be: recipes, mixing, stages."""
