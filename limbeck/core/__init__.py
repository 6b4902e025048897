"""The contract: a method yields updates, the driver takes the steps between them."""
