"""A conversation with a model that works with tools, whatever provider speaks for it.

`tool` is the border to what agents may do; the providers' wire formats lie in the backends that use this package.
"""
