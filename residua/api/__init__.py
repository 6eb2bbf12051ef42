"""The Python functions for what the command line does.

train            train a network on any images, and return it with its metrics
classifier       load a trained network; predict, evaluate, explain, export
class_prediction  the predicted classes of an image
network_signals  measure the activations and gradients of a network's units
studies          lesion studies of networks; studies of families and depths
surgery          deepen a network; add skip connections
push             push a trained network to the Hugging Face hub
given_images     the images that a classifier is given: paths, URLs, PIL images, arrays
given_networks   the networks that a function is given: paths, classifiers, modules
own_errors       errors whose sentences name Python's keywords instead of options
"""
