"""Model + head -> phases -> fit. Written against Keras 3 and numpy alone; no TensorFlow call."""
