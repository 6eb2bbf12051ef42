"""The Python functions for what the command line does.

train          train a network on any images, and return it with its metrics
classifier     load a trained network; predict, evaluate, explain, export
given_images   the images that a classifier is given: paths, addresses, PIL images, arrays
own_errors     errors whose sentences name Python's keywords instead of options
"""
