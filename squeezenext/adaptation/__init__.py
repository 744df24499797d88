"""The stages of `adapt`: the plan before training, and what is shipped after it."""
