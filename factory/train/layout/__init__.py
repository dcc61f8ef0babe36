"""`train layout`: fits how the objects of real masks lie, so that masks can be drawn."""
