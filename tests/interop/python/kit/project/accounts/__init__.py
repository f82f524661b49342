"""Users of other shapes than Django's own."""
