"""All SQL of hatoba. Functions take a `Reader` or `Transaction`, return frozen dataclasses, and decide nothing."""
