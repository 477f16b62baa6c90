"""Models as folders: found, measured, read and written, without training or sampling them.

resolve.py                          where the policy comes from; hub.py: whether the hub can be reached
size.py                             what decides how much memory a model takes
weight_files.py, tensor_files.py    which tensors a folder holds; published weights and their checksum
"""
