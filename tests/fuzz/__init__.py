"""The fuzz suite: inputs made at random, and what must hold for whatever residua does with them."""
