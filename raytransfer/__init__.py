"""raytransfer: how transferable are the features of each layer of a network?"""

__version__ = "0.1.0"
