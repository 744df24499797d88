"""Converts archives or folders of images into a data directory of TFRecord shards.

Each worker process imports this package, so it loads no module: `command` has the function
`convert`.
"""
