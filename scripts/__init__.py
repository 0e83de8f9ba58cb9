"""What is run once in a while: the encoder that training starts from."""
