"""The flows: the stages of the road, put together."""
