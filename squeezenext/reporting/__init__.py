"""Figures about a trained network: metrics, model card, HTML report."""
