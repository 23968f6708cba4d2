"""The mini world: a procedural stand-in for DreamBench's photos.

A scene is data; images, captions and labels are three functions of it. Imports nothing of the rest of bdkit.
"""
