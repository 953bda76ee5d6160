"""Spaces: each module yields the treatments of one study."""
