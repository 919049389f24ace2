"""What closed_loop.py is made of."""
