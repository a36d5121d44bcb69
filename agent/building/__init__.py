"""From a recipe to a model that an engine can load: fetch, check, fold."""
