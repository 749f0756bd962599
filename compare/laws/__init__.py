"""Laws of random numbers: initialisation and dropout."""
