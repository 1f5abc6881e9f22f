"""The only room that knows everything: reads settings once, builds the others, connects them."""
