"""A simulated robot that drives for hours: does anything grow, slow down or get lost?"""
