"""A small language for flat lattices, made for a study so that no model has seen it: language, solver, simulator."""
