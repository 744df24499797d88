"""From gradients to weights: the learning rate, the optimizers, the step over all replicas."""
