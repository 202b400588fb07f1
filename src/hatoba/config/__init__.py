"""The settings: what can be written (`settings`, `values`) and what `REGISTRY_*` changes (`environment`).

`load` is the way in. Reads the file and the environment it is given; touches nothing else, knows no other part.
"""
