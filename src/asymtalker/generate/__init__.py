"""From a portrait and a voice to a talking video."""
