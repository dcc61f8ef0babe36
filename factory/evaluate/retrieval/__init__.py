"""Retrieval: does an image-text model learn from synthetic pairs to find real or held-out ones?"""
